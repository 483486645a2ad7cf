-- Note in a user's index that all of the user's sessions are over, but one.
--
-- KEYS  1  the index, a sorted set: session id, score: time of login, ms
-- ARGV  1  the member that holds the time of this call, ms
--       2  the id of the session that stays, or ''
--       3  how long the note has to last, ms: as long as any session may
-- Returns the index, newest first: member, score, member, score ...

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if not redis.acl_check_cmd('PEXPIRE', KEYS[1], ARGV[3]) then
  -- Before anything is written: no key may be left without an end.
  return redis.error_reply("NOPERM this user has no permissions to run the 'PEXPIRE' command")
end
local lasts = redis.call('PTTL', KEYS[1])
redis.call('ZREM', KEYS[1], '@')  -- of no member: a full server refuses only a script's first write
redis.call('ZADD', KEYS[1], now, ARGV[1])
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[1], 'NX', now, ARGV[2])
end
if lasts < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('ZREVRANGE', KEYS[1], 0, -1, 'WITHSCORES')
