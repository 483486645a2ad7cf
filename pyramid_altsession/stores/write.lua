-- The guarded write: every change of a session is this script, so that no change ever reaches a
-- session that ended, or that answers to another verifier by now.
--
-- KEYS  1  the session's hash
-- ARGV  1  proof: SHA-256 of the caller's verifier, 32 bytes
--       2  '1': make the session first, under this proof; '0': it has to be there
--       3  tti, ms            4  touch interval, ms        5  lifetime, ms (0: none)
--       6  gone_window, ms: how long a tombstone stands
--       7  the window in which a proof that died counts as REPLACED, ms
--       8… verbs, each its name and its arguments:
--          set name value · remove name · pop name · setdefault name value
--          increment name by · compare_and_set name given('1'/'0') expected value
--          touch · renew proof · invalidate nonce
-- Returns {state, now ms, left ms (-2: no key), result of each verb…}
--       LIVE      done        REFUSED   live, nothing written; the place of the verb, from 0
--       DEAD      no session  REJECTED  it lives under another proof
--       REPLACED  the proof died within the window        ENDED  a tombstone stands
--
-- Redis rolls nothing back. So all verbs are worked out on a draft first; then come the writes,
-- none of which can fail but for a full server, which refuses the first one alone.

local key, proof = KEYS[1], ARGV[1]
local create = ARGV[2] == '1'
local tti, interval, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tombstone_ms, window = tonumber(ARGV[6]), tonumber(ARGV[7])
local SAFE_INTEGER = 9007199254740991

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local held = redis.call('HMGET', key, '@v', '@q', '@d', '@i', '@t', '@x')
local owner, dead, deadline, own_tti, seen, tombstone = unpack(held)
deadline, seen = tonumber(deadline), tonumber(seen)

local function answer(state, left, results)
  local reply = {state, now, left}
  for place, result in ipairs(results or {}) do
    reply[3 + place] = result
  end
  return reply
end

-- The last three proofs that died: 16 bytes and 5 bytes of time (10 ms) each, newest first.
local function died_within()
  for start = 1, #(dead or ''), 21 do
    if dead:sub(start, start + 15) == proof:sub(1, 16) then
      local age = now - struct.unpack('>I5', dead, start + 16) * 10
      return 0 <= age and age < window
    end
  end
  return false
end

-- What a repeated script finds when its first reply was lost: its own new proof or its own nonce.
local first = ARGV[8]
if first == 'renew' and owner == ARGV[9] and not create then
  return answer('LIVE', redis.call('PTTL', key), {1})
end
if first == 'invalidate' and tombstone == ARGV[9] then
  return answer('LIVE', redis.call('PTTL', key), {1})
end

-- The guard. A tombstone with more time left than it was given has seen the clock set back: it is
-- none, or it would stand for so much longer.
if tombstone and redis.call('PTTL', key) <= tombstone_ms then
  return answer('ENDED', -2)
elseif create and not owner then
  if redis.call('EXISTS', key) == 1 then
    return answer('DEAD', -2)
  end
  owner = proof
  deadline = lifetime > 0 and now + lifetime or nil
elseif not owner or (deadline and now >= deadline) then
  return answer('DEAD', -2)
elseif owner ~= proof then
  return answer(died_within() and 'REPLACED' or 'REJECTED', -2)
else
  create = false
end

-- The server's clock was set back since the last use: the absolute end moves with it, else it
-- would come late.
local moved = not create and deadline and seen and now < seen
if moved then
  deadline = deadline - (seen - now)
  if now >= deadline then
    redis.call('DEL', key)
    return answer('DEAD', -2)
  end
end

-- Work out the verbs on a draft of what changes: name -> value, or false for a field to remove.
local draft, results = {}, {}
local ended, renewed

local function get(name)
  if draft[name] == nil then
    return redis.call('HGET', key, name)
  end
  return draft[name]
end

local verbs = {
  set = {2, function(name, value)
    draft[name] = value
    return false
  end},
  remove = {1, function(name)
    local found = get(name)
    draft[name] = false
    return found and 1 or 0
  end},
  pop = {1, function(name)
    local found = get(name)
    draft[name] = false
    return found
  end},
  setdefault = {2, function(name, value)
    local found = get(name)
    if found then
      return found
    end
    draft[name] = value
    return value
  end},
  increment = {2, function(name, by)
    local text = get(name) or '0'
    if #text > 17 or not text:match('^%-?%d+$') then
      return nil
    end
    local found = tonumber(text)
    local number = found + tonumber(by)
    if math.abs(found) > SAFE_INTEGER or math.abs(number) > SAFE_INTEGER then
      return nil
    end
    draft[name] = string.format('%.0f', number)
    return draft[name]
  end},
  compare_and_set = {4, function(name, given, expected, value)
    local found = get(name)
    if found ~= (given == '1' and expected) then
      return {0, found}
    end
    draft[name] = value
    return {1, value}
  end},
  touch = {0, function()
    return 1
  end},
  renew = {1, function(new)
    renewed = new
    return 1
  end},
  invalidate = {1, function(nonce)
    ended = nonce
    return 1
  end},
}

local at = 8
while at <= #ARGV do
  local verb = verbs[ARGV[at]]
  local result = verb[2](unpack(ARGV, at + 1, at + verb[1]))
  if result == nil then
    return answer('REFUSED', redis.call('PTTL', key), {#results})
  end
  results[#results + 1] = result
  at = at + 1 + verb[1]
end

-- Write.
if ended then
  -- Deleting first makes this work on a full server.
  redis.call('DEL', key)
  if tombstone_ms > 0 then
    redis.call('HSET', key, '@x', ended)
    redis.call('PEXPIRE', key, tombstone_ms)
  end
  return answer('LIVE', -2, results)
end

local sets, removals = {'@t', now}, {}
for name, value in pairs(draft) do
  if value then
    sets[#sets + 1] = name
    sets[#sets + 1] = value
  else
    removals[#removals + 1] = name
  end
end
local grows = #sets > 2 or create

local function also(name, value)
  sets[#sets + 1] = name
  sets[#sets + 1] = value
end
if create then
  also('@v', proof)
  also('@c', now)
end
if deadline and (create or moved) then
  also('@d', deadline)
end
if renewed then
  also('@v', renewed)
  also('@q', owner:sub(1, 16) .. struct.pack('>I5', math.floor(now / 10)) .. (dead or ''):sub(1, 42))
end

if own_tti then
  tti = tonumber(own_tti)
  interval = math.max(interval, math.floor(tti / 10))
end
local function restart()
  local expires = now + tti + interval
  if deadline and deadline < expires then
    expires = deadline
  end
  redis.call('PEXPIREAT', key, expires)
  return expires - now
end

-- A full server refuses the first write of a script and no later one. So data goes first; a verb
-- that has to work on a full server (touch, remove, renew) restarts the tti before its HSET.
local left = not grows and restart()
for start = 1, #sets, 4000 do
  redis.call('HSET', key, unpack(sets, start, math.min(start + 3999, #sets)))
end
for start = 1, #removals, 4000 do
  redis.call('HDEL', key, unpack(removals, start, math.min(start + 3999, #removals)))
end
return answer('LIVE', grows and restart() or left, results)
