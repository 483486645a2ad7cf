-- Enter a session into its user's index, where the index is on another server than the session.
--
-- KEYS  1  the index, a sorted set: session id, score: time of login, ms
-- ARGV  1  session id   2  time of its login, ms; '' for a login that follows now
--       3  how long the index has to last, ms   4  entries that the user may have; 0: any number
--       5… ids of ended sessions, whose entries do not count
-- Returns how many entries there are; -1: no more are allowed; -2: "log out everywhere" came after
-- that login. Both times nothing was done.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local index, id, login, limit = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local listed, revoked = unpack(redis.call('ZMSCORE', index, id, '@ended'))
local entries = redis.call('ZCARD', index) - (revoked and 1 or 0)
local counted = entries
for at = 5, #ARGV do
  counted = counted - (redis.call('ZSCORE', index, ARGV[at]) and 1 or 0)
end
if limit > 0 and counted >= limit and not listed then
  return -1
end
if login and revoked and login < tonumber(revoked) then
  return -2
end
if not redis.acl_check_cmd('PEXPIRE', index, ARGV[3]) then
  -- Before anything is written: no key may be left without an end.
  return redis.error_reply("NOPERM this user has no permissions to run the 'PEXPIRE' command")
end
local lasts = redis.call('PTTL', index)
redis.call('ZREM', index, '@')  -- of no member: a full server refuses only a script's first write
if not (listed and login) then
  redis.call('ZADD', index, login or now, id)
end
if lasts < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', index, ARGV[3])
end
return listed and entries or entries + 1
