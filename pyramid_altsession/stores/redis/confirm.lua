-- Write something, for WAIT to count: where nothing was written, it says at once that replicas have
-- all of it.
--
-- KEYS  1  a hash that nobody reads, on the same node as what was written before

redis.call('HDEL', KEYS[1], '-')  -- of no field: a full server refuses only a script's first write
redis.call('HSET', KEYS[1], 'written', '1')
redis.call('PEXPIRE', KEYS[1], 1000)
