-- The guarded write: every change of a session is this script, so that no change ever reaches a
-- session that ended, or that answers to another verifier by now.
--
-- KEYS  1  the session's hash
--       2  optional: the index of the session's user, a sorted set (member: id, score: login, ms)
-- ARGV  1  proof: SHA-256 of the caller's verifier, 32 bytes
--       2  '1': make the session first, under this proof
--          'any': it has to be there, whatever proof it answers to (for administration)
--          '0' and perhaps the mark of a request: it has to be there; where its end was not told to
--          the browser, the request with this mark may start the session that follows it
--       3  tti, ms            4  touch interval, ms        5  lifetime, ms (0: none)
--       6  gone_window, ms: how long a tombstone stands
--       7  the window in which a proof that died counts as REPLACED, ms
--       8  renew_grace, ms    9  '1': a reused predecessor ends the session
--       10… verbs, each its name and its arguments (ttl: of a new value, ms, 0: none):
--          get name · everything · expect name given('1'/'0') expected
--          set name value ttl · remove name · pop name · setdefault name value ttl
--          increment name by start ttl · append name item limit(bytes)
--          compare_and_set name given('1'/'0') expected value ttl
--          touch · renew proof · rotate proof after(ms)
--          invalidate nonce user(''=anybody's) told('1'/'0')
--          login proof user tti(ms, ''=the setting's) lifetime(ms) limit(0=none) info
-- Returns {state, now ms, left ms (-2: no key), ms to the end of a remembered session (-1: it is
--       none), the user it was bound to, since when (ms) a signed-in session has its proof, result
--       of each verb…}
--       LIVE      done        REFUSED   live, nothing written; the place of the verb, from 0
--       DEAD      no session  REJECTED  it lives under another proof
--       REPLACED  the proof died within the window        ENDED  a tombstone stands
--       OWED      the same, and the session that follows it is this request's to start
--       REUSED    the session was ended, since a predecessor came back after its time
--       OTHERS    it was another user's session, and was ended for this login
--       CROWDED   the user has as many sessions as allowed
--
-- Redis rolls nothing back. So all verbs are worked out on a draft first; then come the writes,
-- none of which can fail but for a full server, which refuses the first one alone.

local key, index, proof = KEYS[1], KEYS[2], ARGV[1]
local id = key:match('[^:]+$')
local create, anybody = ARGV[2] == '1', ARGV[2] == 'any'
local mark = not create and not anybody and ARGV[2]:sub(2) or ''
local tti, interval, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tombstone_ms, window = tonumber(ARGV[6]), tonumber(ARGV[7])
local grace = tonumber(ARGV[8])
local FIRST_VERB = 10
local SAFE_INTEGER = 9007199254740991
local INFO_CHUNK = 64

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local held = redis.call('HMGET', key, '@v', '@q', '@d', '@i', '@t', '@x', '@p', '@u', '@l')
local owner, dead, deadline, own_tti, seen, tombstone, previous, user, login = unpack(held)
deadline, own_tti, seen = tonumber(deadline), tonumber(own_tti), tonumber(seen)
dead = dead or ''

local function answer(state, left, results)
  local remembered = own_tti and deadline and left ~= -2 and deadline - now or -1
  local since = previous and struct.unpack('>I5', previous, 38) * 10 or tonumber(login)
  local reply = {state, now, left, remembered, user, since or false}
  for place, result in ipairs(results or {}) do
    reply[6 + place] = result
  end
  return reply
end

-- Times within fields: 5 bytes, in units of 10 ms.
local function stamp(ms)
  return struct.pack('>I5', math.floor(ms / 10))
end
local function stamped(text, at)
  return struct.unpack('>I5', text, at) * 10
end

-- No key may be left without an end: a user without the right to set one is told so before
-- anything is written. (To try it would be a write, after which a full server refuses no data.)
local function can_end(command, name)
  if not redis.acl_check_cmd(command, name, now) then
    error({err = 'NOPERM this user has no permissions to run the \'' .. command .. '\' command'})
  end
end

-- owed: nil where an answer tells the browser; else the mark of the request that may start the
-- session that follows, '' for the first one that asks.
local function finish(nonce, owed)
  if tombstone_ms > 0 then
    can_end('PEXPIRE', key)
  end
  -- Deleting first makes this work on a full server.
  redis.call('DEL', key)
  if tombstone_ms > 0 then
    redis.call('HSET', key, '@x', nonce)
    if owed then
      redis.call('HSET', key, '@o', owed)
    end
    redis.call('PEXPIRE', key, tombstone_ms)
  end
end

-- How many sessions the index lists. '@ended' is no session, but the time of the last revocation.
local function entries()
  local revoked = redis.call('ZSCORE', index, '@ended')
  return redis.call('ZCARD', index) - (revoked and 1 or 0)
end

-- What the verbs do: to a draft of what changes, name -> value, or false for a field to remove.
local draft, results = {}, {}
local ended, ended_owed, renewed, rotated, entered
local by_predecessor, arrived, died = false, false, nil

-- A value may stand in a frame: '@', its end in ms or nothing, ';' and a version or nothing, ':'.
local function frame_of(raw)
  return raw:byte() == 64 and (raw:match('^@%d*:') or raw:match('^@%d*;%d+:')) or ''
end
local function split(raw)
  local frame = frame_of(raw)
  return frame, raw:sub(#frame + 1)
end
local function end_of(raw)
  return frame_of(raw):match('^@(%d+)')
end
local function ending(raw, at)
  local frame, value = split(raw)
  local version = frame:match(';%d+') or ''
  if at == '' and version == '' and value:sub(1, 1) ~= '@' then
    return value
  end
  return '@' .. at .. version .. ':' .. value
end
local function lasting(value, ttl)
  return ttl == '0' and value or ending(value, string.format('%.0f', now + ttl))
end

-- What a field holds, or false; a value whose end has come is none, and goes with the next write.
local function alive(name, raw)
  local at = raw and end_of(raw)
  if at and tonumber(at) <= now then
    draft[name] = false
    return false
  end
  return raw
end
local function get(name)
  local raw = draft[name]
  if raw == nil then
    raw = redis.call('HGET', key, name)
  end
  return alive(name, raw)
end

local verbs = {
  get = {1, get},
  everything = {0, function()
    local held, flat = redis.call('HGETALL', key), {}
    local function add(name, raw)
      if raw then
        flat[#flat + 1] = name
        flat[#flat + 1] = raw
      end
    end
    for name, raw in pairs(draft) do
      add(name, name:byte() ~= 64 and alive(name, raw))
    end
    for at = 1, #held, 2 do
      if held[at]:byte() ~= 64 and draft[held[at]] == nil then
        add(held[at], alive(held[at], held[at + 1]))
      end
    end
    return flat
  end},
  expect = {3, function(name, given, expected)
    return get(name) == (given == '1' and expected) and 1 or nil
  end},
  set = {3, function(name, value, ttl)
    draft[name] = lasting(value, ttl)
    return ttl ~= '0' and end_of(draft[name])
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
  setdefault = {3, function(name, value, ttl)
    local found = get(name)
    if not found then  -- else nothing grows, and a full server need not refuse it
      draft[name] = lasting(value, ttl)
    end
    return found or draft[name]
  end},
  increment = {4, function(name, by, start, ttl)
    local frame, text = split(get(name) or lasting(start, ttl))
    if #text > 17 or not text:match('^%-?%d+$') then
      return nil
    end
    local found = tonumber(text)
    local number = found + tonumber(by)
    if math.abs(found) > SAFE_INTEGER or math.abs(number) > SAFE_INTEGER then
      return nil
    end
    draft[name] = frame .. string.format('%.0f', number)
    return draft[name]
  end},
  compare_and_set = {5, function(name, given, expected, value, ttl)
    local found = get(name)
    if (found and ending(found, '')) ~= (given == '1' and ending(expected, '')) then
      return {0, found}
    end
    draft[name] = found and ending(value, end_of(found) or '') or lasting(value, ttl)
    return {1, draft[name]}
  end},
  append = {3, function(name, item, limit)
    local frame, text = split(get(name) or '[]')
    if text:sub(1, 1) ~= '[' or text:sub(-1) ~= ']' then
      return nil
    end
    local items = text == '[]' and item or text:sub(2, -2) .. ',' .. item
    if #items + 2 > tonumber(limit) then
      return nil
    end
    draft[name] = frame .. '[' .. items .. ']'
    return 1
  end},
  touch = {0, function()
    return 1
  end},
  renew = {1, function(new)
    renewed = new
    return 1
  end},
  rotate = {2, function(new, after)
    local since = previous and stamped(previous, 38) or tonumber(login)
    if not since or now - since < tonumber(after) or (by_predecessor and arrived) then
      return 0
    end
    rotated = new
    return 1
  end},
  invalidate = {3, function(nonce, whose, told)
    if whose ~= '' and whose ~= user then
      return 0
    end
    ended = nonce
    ended_owed = told ~= '1' and '' or nil
    return 1
  end},
  login = {6, function(new, who, tti_ms, lifetime_ms, limit, info)
    renewed = ARGV[2] ~= '1' and new
    entered = {who, now, tonumber(limit)}
    own_tti = tonumber(tti_ms)
    deadline = now + tonumber(lifetime_ms)
    draft['@u'], draft['@l'] = who, string.format('%.0f', now)
    draft['@i'] = own_tti and tti_ms or false
    draft['@d'] = string.format('%.0f', deadline)
    draft['_csrft_'] = false
    for chunk = 0, 8 do
      local part = info:sub(chunk * INFO_CHUNK + 1, (chunk + 1) * INFO_CHUNK)
      draft['@n' .. chunk] = part ~= '' and part
    end
    return 1
  end},
}

-- A script that is sent again because its first reply was lost finds its own new proof or its own
-- nonce. All of its verbs were carried out then: beside the first one those are sets without a ttl.
local function verb_by_verb(act)
  local at = FIRST_VERB
  while at <= #ARGV do
    local verb = verbs[ARGV[at]]
    local result = act(verb, at)
    if result == nil then
      return false
    end
    results[#results + 1] = result
    at = at + 1 + verb[1]
  end
  return true
end

local first, fresh = ARGV[FIRST_VERB], ARGV[FIRST_VERB + 1]
local renews = first == 'renew' or first == 'rotate' or first == 'login'
if (renews and owner == fresh and not create) or (first == 'invalidate' and tombstone == fresh) then
  verb_by_verb(function(_, at)
    return ARGV[at] == 'login' and entries() or ARGV[at] ~= 'set' and 1
  end)
  return answer('LIVE', redis.call('PTTL', key), results)
end

-- '@p' is the predecessor that a periodic renewal still honours: its proof, when its successor
-- was first used (0: not yet), and when it was replaced. It is good until the grace after that
-- first use; then its window begins. Times in the future (a clock set back) count for nothing.
if previous and previous:sub(1, 32) == proof then
  local confirmed = stamped(previous, 33)
  local since = now - confirmed
  arrived = confirmed ~= 0
  by_predecessor = not arrived or (0 <= since and since < grace)
  died = confirmed + grace
end
-- '@q': the last three proofs that died, 16 bytes and a time each, newest first.
for start = 1, #dead, 21 do
  if dead:sub(start, start + 15) == proof:sub(1, 16) then
    died = stamped(dead, start + 16)
  end
end

-- The guard. A tombstone with more time left than it was given has seen the clock set back: it is
-- none, or it would stand for so much longer.
if tombstone and redis.call('PTTL', key) <= tombstone_ms then
  local owed = redis.call('HGET', key, '@o')
  if owed ~= '' and (not owed or owed ~= mark) then
    return answer('ENDED', -2)
  end
  if owed ~= mark then
    redis.call('HDEL', key, '@o')  -- so that a full server does not refuse the next one
    redis.call('HSET', key, '@o', mark)
  end
  return answer('OWED', -2)
elseif create and not owner then
  if redis.call('EXISTS', key) == 1 then
    return answer('DEAD', -2)
  end
  owner = proof
  deadline = lifetime > 0 and now + lifetime or nil
elseif not owner or (deadline and now >= deadline) then
  return answer('DEAD', -2)
elseif owner ~= proof and not by_predecessor and not anybody then
  if died and now >= died and now - died < window then
    return answer('REPLACED', -2)
  elseif previous and previous:sub(1, 32) == proof and now >= died and ARGV[9] == '1' then
    finish('reused', mark)
    return answer('REUSED', -2)
  end
  return answer('REJECTED', -2)
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

-- A session that the index has lost: "log out everywhere" could not find it, but left its time. One
-- that was there then is over; any other gets its entry back, at the end.
local listed = true
if index and user and login and not create and not anybody and first ~= 'login'
    and first ~= 'invalidate' then
  local found = redis.call('ZMSCORE', index, id, '@ended')
  listed = found[1]
  if not listed and found[2] and tonumber(login) < tonumber(found[2]) then
    finish('revoked', '')
    return answer('ENDED', -2)
  end
end

-- All verbs, or none.
if not verb_by_verb(function(verb, at) return verb[2](unpack(ARGV, at + 1, at + verb[1])) end) then
  return answer('REFUSED', redis.call('PTTL', key), {#results})
end

-- Whom the session is for.
if first == 'login' then
  if entered[3] > 0 and entries() >= entered[3] and not redis.call('ZSCORE', index, id) then
    return answer('CROWDED', -2)
  end
  if user and user ~= entered[1] then
    finish('others')
    return answer('OTHERS', -2)
  end
end

-- Write.
if ended then
  finish(ended, ended_owed)
  if index then
    redis.call('ZREM', index, id)
  end
  return answer('LIVE', -2, results)
end

local sets, removals, grows = {'@t', now}, {}, create
for name, value in pairs(draft) do
  if value then
    sets[#sets + 1] = name
    sets[#sets + 1] = value
    grows = grows or name:sub(1, 1) ~= '@'
  else
    removals[#removals + 1] = name
  end
end
-- A sign-in has to work on a full server.
grows = grows and first ~= 'login'

if create then
  can_end('PEXPIREAT', key)
end
if entered then
  can_end('PEXPIREAT', index)
end

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

local function bury(buried, time)
  dead = (buried:sub(1, 16) .. stamp(time) .. dead):sub(1, 63)
  also('@q', dead)
end
if renewed then
  -- A sign-in or an explicit renewal ends all honouring of predecessors.
  if previous then
    bury(previous:sub(1, 32), now)
    removals[#removals + 1] = '@p'
  end
  bury(owner, now)
  also('@v', renewed)
elseif rotated then
  if by_predecessor then
    bury(owner, now)  -- its answer was lost: nobody holds it
  elseif previous then
    local confirmed = stamped(previous, 33)
    bury(previous:sub(1, 32), math.min(now, (confirmed == 0 and now or confirmed) + grace))
  end
  also('@v', rotated)
  also('@p', proof .. stamp(0) .. stamp(now))
elseif previous and owner == proof and stamped(previous, 33) == 0 then
  also('@p', previous:sub(1, 32) .. stamp(now) .. previous:sub(38))
end

if own_tti then
  tti = own_tti
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

-- At a login the entry comes first: a signed-in session must never be one that its user cannot
-- find. The ZREM, of no member, lets the ZADD work on a full server, which refuses only the first
-- write of a script.
local function enter(score)
  local lasts = redis.call('PTTL', index)
  redis.call('ZADD', index, score, id)
  if lasts < deadline - now then
    redis.call('PEXPIREAT', index, deadline)
  end
end
if entered then
  redis.call('ZREM', index, '@')
  enter(entered[2])
  results[1] = entries()
end

-- A full server refuses the first write of a script and no later one. So data goes first; a verb
-- that has to work on a full server (touch, remove, renew) restarts the tti before its HSET.
local left
if not grows then
  left = restart()
end
for start = 1, #sets, 4000 do
  redis.call('HSET', key, unpack(sets, start, math.min(start + 3999, #sets)))
end
if grows or create then
  left = restart()  -- at once: who may not HDEL leaves no key without an end
end
for start = 1, #removals, 4000 do
  redis.call('HDEL', key, unpack(removals, start, math.min(start + 3999, #removals)))
end
if not listed and deadline then
  enter(login)
end
return answer('LIVE', left, results)
