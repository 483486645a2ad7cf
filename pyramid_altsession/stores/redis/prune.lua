-- Forget entries of ended sessions in a user's index.
--
-- KEYS  1  the index, a sorted set: session id, score: time of login, ms
-- ARGV  1  the age from which an entry may go, ms; 2… session id, score
-- Returns how many went. Only unchanged and old entries go: a login puts its entry in before its
-- session, and an entry taken in between would leave that session unlisted for ever.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local gone = 0
for at = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if score and tonumber(score) == tonumber(ARGV[at + 1])
      and now - tonumber(score) >= tonumber(ARGV[1]) then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[at])
  end
end
return gone
