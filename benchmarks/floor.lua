-- The least that a guarded write can be: the server's time, the fields that tell whether the
-- session may be written, the comparison of the proof, one field beside the time of this use, and
-- the end.
--
-- KEYS  1  the session's hash
-- ARGV  1  proof    2  tti, ms    3  name    4  value

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.call('HMGET', KEYS[1], '@v', '@q', '@d', '@i', '@t', '@x', '@p', '@u', '@l')
if held[1] ~= ARGV[1] then
  return {'REJECTED', now}
end
redis.call('HSET', KEYS[1], '@t', now, ARGV[3], ARGV[4])
redis.call('PEXPIREAT', KEYS[1], now + ARGV[2])
return {'LIVE', now}
