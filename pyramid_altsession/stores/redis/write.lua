-- The guarded write. Every change of a session goes through this script, so that no change ever
-- reaches a session that has ended, or that has another verifier by the time of the write.
--
-- It has six parts: 1 read, 2 repeated?, 3 guard, 4 data, 5 lifecycle, 6 commit. Redis does not
-- roll back. So the script first works out everything on a draft; then come the writes. Only a full
-- server can make them fail, and it refuses only the first one.
--
-- Every call runs this text from its first line, and pays for each function and table that it
-- creates. So the script creates them only where a call needs them: a set on a session in its usual
-- state, the most frequent call, creates no function at all.
--
-- KEYS  1  the session's hash
--       2  optional: the index of the session's user, a sorted set (member: id, score: login, ms);
--          on a cluster it is on another node, and enter.lua keeps it
-- ARGV  1  proof: SHA-256 of the caller's verifier, 32 bytes
--       2  '1': make the session first, under this proof
--          'any': it has to be there, whatever proof it answers to (for administration)
--          '=' and perhaps a user: the same, and it has to be this user's, or nobody's
--          '0' and perhaps the mark of a request: it has to be there; if it has ended and the
--          browser was not told, the request with this mark may start the next session
--       3  tti, ms            4  touch interval, ms        5  lifetime, ms (0: none)
--       6  gone_window, ms: how long a tombstone stands
--       7  the window in which a proof that died counts as REPLACED, ms
--       8  renew_grace, ms    9  letters, or '': r, a reused predecessor ends the session; l,
--          publish what happens to the session, or k, also which keys change
--       10 keys, and 11 bytes of their names and values, that the session may have (0: any number)
--       12 one step of the session's life, or '' for none, and its arguments:
--          touch · renew proof · rotate proof after(ms)
--          invalidate nonce user(''=anybody's) told('1'/'0')
--          login proof user tti(ms, ''=the setting's) lifetime(ms) limit(0=none) info ended
--          (ended: ids between blanks that do not count for the limit)
--       …  verbs, each its name and its arguments (ttl: of a new value, ms, 0: none):
--          get name · everything · expect name given('1'/'0') expected
--          set name value ttl · remove name · pop name · setdefault name value ttl
--          increment name by start ttl · append name item limit(bytes)
--          compare_and_set name given('1'/'0') expected value ttl
-- Publishes with SPUBLISH, to the channel with the key's name: e (ended), r (renewed) or c
--       (changed), and the names of keys, each after its length in 2 bytes. With PUBLISH, to the
--       channel with the key's prefix and its colon: s (signed in), o (the user signed out in this
--       browser) or e (ended otherwise), the id, and the user if there is one.
-- Returns {state, now ms, left ms (-2: no key), ms to the end of a remembered session (-1: it is
--       none), the user it was bound to, since when (ms) a signed-in session has its proof, the
--       step's result (0: there is none), a list of the verbs' results}
--       LIVE      done        REFUSED   live, nothing written; for results the verb's place, from 0
--       FULL      live, nothing written; for results the exceeded limit, 'keys' or 'bytes',
--                 and the new number
--       DEAD      no session  REJECTED  it lives under another proof
--       REPLACED  the proof died within the window        ENDED  a tombstone stands
--       OWED      the same, and this request may start the next session
--       REUSED    the session was ended, since a predecessor came back after its time
--       OTHER_USER  it was another user's session, and was ended for this login
--       SESSION_LIMIT  the user has as many sessions as allowed


-- 1. Read

local key, index, proof, life = KEYS[1], KEYS[2], ARGV[1], ARGV[12]
local create = ARGV[2] == '1'
local at = 13  -- the next verb
if life ~= '' and life ~= 'touch' then
  at = ({renew = 14, rotate = 15, invalidate = 16, login = 20})[life] or error('no such step')
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local held = redis.call('HMGET', key, '@v', '@q', '@d', '@i', '@t', '@x', '@p', '@u', '@l')
local owner, dead, deadline, own_tti, last, tombstone, previous, user, login = unpack(held)
deadline = deadline and tonumber(deadline)
own_tti = own_tti and tonumber(own_tti)
local seen = last and tonumber(last)

-- '@p' is the predecessor that is still accepted after a periodic renewal: its proof, when its
-- successor was first used (0: not yet), and when it was replaced. Times within fields have 5
-- bytes, in units of 10 ms.
local since, confirmed = login and tonumber(login), nil
if previous then
  confirmed, since = struct.unpack('>I5I5', previous, 33)
  confirmed, since = confirmed * 10, since * 10
end

-- The session's entry in the index, and how many sessions the index lists. '@ended' is no session,
-- but holds the time of the last "log out everywhere".
local id, listed, revoked, entries
if index then
  id = key:match('[^:]+$')
  if life == 'login' or (user and login and life ~= 'invalidate') then
    listed, revoked = unpack(redis.call('ZMSCORE', index, id, '@ended'))
  end
  if life == 'login' then
    entries = redis.call('ZCARD', index) - (revoked and 1 or 0)
  end
end


-- 2. Repeated?

-- A script that is sent again because its first reply was lost finds its own new proof or its own
-- nonce. Then everything was carried out; besides the step, only sets without a ttl are possible.
if life ~= '' and life ~= 'touch' then
  local fresh = ARGV[13]
  if (life == 'invalidate' and tombstone == fresh)
      or (life ~= 'invalidate' and owner == fresh and not create) then
    local arguments = {
      get = 1, everything = 0, expect = 3, set = 3, remove = 1, pop = 1, setdefault = 3,
      increment = 4, append = 3, compare_and_set = 5,
    }
    local results = {}
    while at <= #ARGV do
      results[#results + 1] = ARGV[at] ~= 'set' and 1
      at = at + 1 + arguments[ARGV[at]]
    end
    local left = redis.call('PTTL', key)
    local remembered = own_tti and deadline and left ~= -2 and deadline - now or -1
    return {'LIVE', now, left, remembered, user, since, entries or 1, results}
  end
end


-- 3. Guard

local draft = {}  -- what changes: name -> value, or false for a field to remove
local state = 'LIVE'
local over, owed  -- if the session ends: the nonce of its tombstone; and, if no answer tells the
                  -- browser, the mark of the request that may start the next session, or '': the
                  -- first request that asks may
local by_predecessor = false

if owner ~= proof or create or tombstone or previous or listed == false
    or (deadline and (now >= deadline or (seen and now < seen))) then
  local tombstone_ms, window, grace = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
  local mark = ARGV[2]:sub(1, 1) == '0' and ARGV[2]:sub(2) or ''
  local anybody = ARGV[2] == 'any' or ARGV[2] == '=' .. (user or '')

  -- A predecessor is good until the grace after its successor's first use; then its window begins.
  -- Times in the future (a clock set back) count for nothing.
  local is_predecessor, died = previous and previous:sub(1, 32) == proof, nil
  if is_predecessor then
    local age = now - confirmed
    by_predecessor = confirmed == 0 or (0 <= age and age < grace)
    died = confirmed + grace
  end
  -- '@q': the last three proofs that died, 16 bytes and a time each, newest first.
  for start = 1, dead and #dead or 0, 21 do
    if dead:sub(start, start + 15) == proof:sub(1, 16) then
      died = struct.unpack('>I5', dead, start + 16) * 10
      break
    end
  end

  -- A tombstone with more time left than it was given shows that the clock was set back. It does
  -- not count, because it would stay too long.
  if tombstone and redis.call('PTTL', key) <= tombstone_ms then
    local waits = redis.call('HGET', key, '@o')
    if waits ~= '' and (not waits or waits ~= mark) then
      state = 'ENDED'
    else
      state = 'OWED'
      if waits ~= mark then
        redis.call('HDEL', key, '@o')  -- so that a full server does not refuse the next one
        redis.call('HSET', key, '@o', mark)
      end
    end
  elseif create and not owner then
    if redis.call('EXISTS', key) == 1 then
      state = 'DEAD'
    end
    local lifetime = tonumber(ARGV[5])
    owner, deadline = proof, lifetime > 0 and now + lifetime or nil
    draft['@v'], draft['@c'], draft['@d'] = proof, now, deadline
  elseif not owner or (deadline and now >= deadline) then
    state = 'DEAD'
  elseif owner ~= proof and not by_predecessor and not anybody then
    if died and now >= died and now - died < window then
      state = 'REPLACED'
    elseif is_predecessor and now >= died and ARGV[9]:find('r') then
      state, over, owed = 'REUSED', 'reused', mark
    else
      state = 'REJECTED'
    end
  else
    create = false  -- a creation that is sent again
    if deadline and seen and now < seen then
      -- The server's clock was set back since the last use: the absolute end moves with it,
      -- or it would come too late.
      deadline = deadline - (seen - now)
      draft['@d'] = deadline
    end
    if deadline and now >= deadline then
      redis.call('PEXPIREAT', key, 0)  -- a DEL that needs no right of its own
      state = 'DEAD'
    elseif listed == false and life ~= 'login' and revoked
        and tonumber(login) < tonumber(revoked) then
      -- The index has lost this session, so "log out everywhere" could not find it, but has left
      -- the time of the call.
      state, over, owed = 'ENDED', 'revoked', ''
    elseif owner == proof and confirmed == 0 then
      -- The first use of a new proof begins its predecessor's grace.
      local first_use = struct.pack('>I5', math.floor(now / 10))
      draft['@p'] = previous:sub(1, 32) .. first_use .. previous:sub(38)
    end
  end

  if over then
    life, at = '', #ARGV + 1  -- nothing of what is asked for is done
  elseif state ~= 'LIVE' then
    return {state, now, -2, -1, user, since, 0, {}}
  end
end


-- 4. Data

local results = {}

-- A plain set needs none of the functions below.
while ARGV[at] == 'set' and ARGV[at + 3] == '0' do
  draft[ARGV[at + 1]] = ARGV[at + 2]
  results[#results + 1] = false
  at = at + 4
end

if ARGV[at] then
  local SAFE_INTEGER = 9007199254740991

  -- A value may stand in a frame: '@', its end in ms or nothing, ';' and a version or nothing, ':'.
  local function frame_of(raw)
    return raw:byte() == 64 and (raw:match('^@%d*:') or raw:match('^@%d*;%d+:')) or ''
  end
  local function split(raw)
    local frame = frame_of(raw)
    return frame, frame == '' and raw or raw:sub(#frame + 1)
  end
  local function end_of(raw)
    return frame_of(raw):match('^@(%d+)')
  end
  local function ending(raw, time)
    local frame, value = split(raw)
    local version = frame:match(';%d+') or ''
    if time == '' and version == '' and value:byte() ~= 64 then
      return value
    end
    return '@' .. time .. version .. ':' .. value
  end
  local function lasting(value, ttl)
    return ttl == '0' and value or ending(value, string.format('%.0f', now + ttl))
  end
  -- The value of a field, or false. A value whose end has come does not count, and is removed now.
  local function alive(name, raw)
    local time = raw and raw:byte() == 64 and end_of(raw)
    if time and tonumber(time) <= now then
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

  repeat
    local verb, name = ARGV[at], ARGV[at + 1]
    local result  -- nil: the verb cannot be carried out
    if verb == 'set' then
      local ttl = ARGV[at + 3]
      draft[name] = lasting(ARGV[at + 2], ttl)
      result = ttl ~= '0' and end_of(draft[name])
      at = at + 4
    elseif verb == 'get' then
      result = get(name)
      at = at + 2
    elseif verb == 'remove' then
      result = get(name) and 1 or 0
      if result == 1 then
        draft[name] = false
      end
      at = at + 2
    elseif verb == 'pop' then
      result = get(name)
      if result then
        draft[name] = false
      end
      at = at + 2
    elseif verb == 'setdefault' then
      result = get(name)
      if not result then  -- else nothing grows, and a full server need not refuse it
        result = lasting(ARGV[at + 2], ARGV[at + 3])
        draft[name] = result
      end
      at = at + 4
    elseif verb == 'increment' then
      local raw = get(name)
      local frame, text = split(raw or lasting(ARGV[at + 3], ARGV[at + 4]))
      if #text <= 17 and text:match('^%-?%d+$') then
        local found = tonumber(text)
        local number = found + tonumber(ARGV[at + 2])
        if math.abs(found) <= SAFE_INTEGER and math.abs(number) <= SAFE_INTEGER then
          result = frame .. string.format('%.0f', number)
          if result ~= raw then
            draft[name] = result
          end
        end
      end
      at = at + 5
    elseif verb == 'append' then
      local item, limit = ARGV[at + 2], tonumber(ARGV[at + 3])
      local frame, text = split(get(name) or '[]')
      if text:sub(1, 1) == '[' and text:sub(-1) == ']' then
        local items = text == '[]' and item or text:sub(2, -2) .. ',' .. item
        if #items + 2 <= limit then
          draft[name] = frame .. '[' .. items .. ']'
          result = 1
        end
      end
      at = at + 4
    elseif verb == 'compare_and_set' then
      local expected, value, ttl = ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
      local found = get(name)
      if (found and ending(found, '')) == (ARGV[at + 2] == '1' and ending(expected, '')) then
        local new = found and ending(value, end_of(found) or '') or lasting(value, ttl)
        if new ~= found then
          draft[name] = new
        end
        result = {1, new}
      else
        result = {0, found}
      end
      at = at + 6
    elseif verb == 'expect' then
      if get(name) == (ARGV[at + 2] == '1' and ARGV[at + 3]) then
        result = 1
      end
      at = at + 4
    elseif verb == 'everything' then
      local stored = redis.call('HGETALL', key)
      result = {}
      for field, raw in pairs(draft) do
        if raw and field:byte() ~= 64 and alive(field, raw) then
          result[#result + 1] = field
          result[#result + 1] = raw
        end
      end
      for place = 1, #stored, 2 do
        local field, raw = stored[place], stored[place + 1]
        if field:byte() ~= 64 and draft[field] == nil and alive(field, raw) then
          result[#result + 1] = field
          result[#result + 1] = raw
        end
      end
      at = at + 1
    else
      error('no such verb: ' .. verb)
    end
    if result == nil then
      local left = redis.call('PTTL', key)
      local remembered = own_tti and deadline and left ~= -2 and deadline - now or -1
      return {'REFUSED', now, left, remembered, user, since, 0, #results}
    end
    results[#results + 1] = result
  until at > #ARGV
end

-- A write must not make the session larger than its limits. A write that adds nothing is never
-- refused, because the session may be larger since a time when the limits were higher. Counting
-- everything each time would be slow, so '@b' has two upper bounds. They hold while '@t' begins
-- with a 0, which writers without a limit, and older versions of this script, do not write.
local limited = ARGV[10] ~= '0' or ARGV[11] ~= '0'
local bounded = limited and last and last:byte() == 48
if limited and results[1] ~= nil then
  local function ended(raw)
    local ends = raw:byte() == 64 and (raw:match('^@(%d+):') or raw:match('^@(%d+);%d+:'))
    return ends and tonumber(ends) <= now
  end
  local new_keys, new_bytes = 0, 0
  for name, raw in pairs(draft) do
    if raw and name:byte() ~= 64 and not ended(raw) then
      new_keys, new_bytes = new_keys + 1, new_bytes + #name + #raw
    end
  end
  if new_keys > 0 then
    local most_keys, most_bytes = tonumber(ARGV[10]), tonumber(ARGV[11])
    local bound = bounded and redis.call('HGET', key, '@b') or create and ('\0'):rep(10)
    local keys, bytes = math.huge, math.huge
    if bound then
      keys, bytes = struct.unpack('>I4I6', bound)
      keys, bytes = keys + new_keys, bytes + new_bytes
    end
    if (most_keys > 0 and keys > most_keys) or (most_bytes > 0 and bytes > most_bytes) then
      local stored = create and {} or redis.call('HGETALL', key)
      local had_keys, had_bytes = 0, 0
      keys, bytes = new_keys, new_bytes
      for place = 1, #stored, 2 do
        local name, raw = stored[place], stored[place + 1]
        if name:byte() ~= 64 then
          if ended(raw) then
            draft[name] = draft[name] or false  -- remove it, to free its room
          else
            had_keys, had_bytes = had_keys + 1, had_bytes + #name + #raw
            if draft[name] == nil then
              keys, bytes = keys + 1, bytes + #name + #raw
            end
          end
        end
      end
      local too_many = most_keys > 0 and keys > most_keys and keys > had_keys
      if too_many or (most_bytes > 0 and bytes > most_bytes and bytes > had_bytes) then
        local left = redis.call('PTTL', key)
        local remembered = own_tti and deadline and left ~= -2 and deadline - now or -1
        local found = too_many and {'keys', keys} or {'bytes', bytes}
        return {'FULL', now, left, remembered, user, since, 0, found}
      end
    end
    draft['@b'], bounded = struct.pack('>I4I6', keys, bytes), true
  end
end


-- 5. Lifecycle

local done = 0  -- the step's result

if life == 'touch' then
  done = 1
elseif life ~= '' then
  local fresh = ARGV[13]
  local function stamp(ms)
    return struct.pack('>I5', math.floor(ms / 10))
  end
  local function bury(buried, time)
    dead = (buried:sub(1, 16) .. stamp(time) .. (dead or '')):sub(1, 63)
    draft['@q'] = dead
  end
  -- After a sign-in or an explicit renewal no predecessor is accepted any more.
  local function replace()
    if previous then
      bury(previous:sub(1, 32), now)
      draft['@p'] = false
    end
    bury(owner, now)
    draft['@v'] = fresh
  end

  done = 1
  if life == 'renew' then
    replace()
  elseif life == 'rotate' then
    if not since or now - since < tonumber(ARGV[14]) or (by_predecessor and confirmed ~= 0) then
      done = 0
    else
      if by_predecessor then
        bury(owner, now)  -- its answer was lost, so no browser has it
      elseif previous then
        local first_use = confirmed == 0 and now or confirmed
        bury(previous:sub(1, 32), math.min(now, first_use + tonumber(ARGV[8])))
      end
      draft['@v'] = fresh
      draft['@p'] = proof .. stamp(0) .. stamp(now)
    end
  elseif life == 'invalidate' then
    local whose, told = ARGV[14], ARGV[15] == '1'
    if whose ~= '' and whose ~= user then
      -- Nothing is written: who names another user's session must not prolong it.
      return {'LIVE', now, -2, -1, user, since, 0, results}
    end
    over, owed = fresh, not told and ''
  else
    local who, tti, info = ARGV[14], ARGV[15], ARGV[18]
    local lifetime, limit = tonumber(ARGV[16]), tonumber(ARGV[17])
    local counted = entries
    if limit > 0 then
      for ended in ARGV[19]:gmatch('%S+') do
        counted = counted - (redis.call('ZSCORE', index, ended) and 1 or 0)
      end
    end
    if limit > 0 and counted >= limit and not listed then
      return {'SESSION_LIMIT', now, -2, -1, user, since, 0, {}}
    end
    if user and user ~= who then
      state, over = 'OTHER_USER', 'others'
    else
      if ARGV[2] ~= '1' then
        replace()
      end
      done = entries and (listed and entries or entries + 1) or 0
      own_tti, deadline = tonumber(tti), now + lifetime
      draft['@u'], draft['@l'], draft['@d'] = who, now, deadline
      draft['@i'] = own_tti and tti or false
      if draft['_csrft_'] or redis.call('HGET', key, '_csrft_') then
        draft['_csrft_'] = false
      end
      for chunk = 0, 8 do  -- of 64 bytes
        local part = info:sub(chunk * 64 + 1, (chunk + 1) * 64)
        draft['@n' .. chunk] = part ~= '' and part
      end
    end
  end
end


-- 6. Commit

local signs_in = life == 'login' and not over
local tombstone_ms = over and tonumber(ARGV[6])

-- No key may be left without an end. So a missing right to set one is reported before anything is
-- written. (Trying the command would be a write, after which a full server would refuse no data.)
if create or signs_in or over then
  local function can_end(command, name)
    if not redis.acl_check_cmd(command, name, now) then
      error({err = 'NOPERM this user has no permissions to run the \'' .. command .. '\' command'})
    end
  end
  if over then
    if tombstone_ms > 0 then
      can_end('PEXPIRE', key)
    end
  else
    if create then
      can_end('PEXPIREAT', key)
    end
    if signs_in and index then
      can_end('PEXPIREAT', index)
    end
  end
end

if over then
  if tombstone_ms > 0 then
    -- The end of the key comes first, which works on a full server; after that it refuses nothing.
    -- No DEL: a cluster's node that hands its slot over takes no write for a key that it has not.
    local stored, fields = redis.call('HGETALL', key), {}
    for place = 1, #stored, 2 do
      fields[#fields + 1] = stored[place]
    end
    redis.call('PEXPIRE', key, tombstone_ms)
    redis.call('HSET', key, '@x', over)
    if create then
      redis.call('PEXPIRE', key, tombstone_ms)  -- there was no key to give an end
    end
    if owed then
      redis.call('HSET', key, '@o', owed)
    end
    for start = 1, #fields, 4000 do
      redis.call('HDEL', key, unpack(fields, start, math.min(start + 3999, #fields)))
    end
  else
    redis.call('PEXPIREAT', key, 0)
  end
  if index and life == 'invalidate' then
    redis.call('ZREM', index, id)
  end
  if ARGV[9]:find('[lk]') then
    redis.pcall('SPUBLISH', key, 'e')
    local kind = life == 'invalidate' and user and not owed and 'o' or 'e'
    redis.pcall('PUBLISH', key:match('^.*:'), kind .. key:match('[^:]+$') .. (user or ''))
  end
  return {state, now, -2, -1, user, since, done, results}
end

local sets, removals, grows = {'@t', bounded and string.format('0%.0f', now) or now}, nil, create
for name, value in pairs(draft) do
  if value then
    sets[#sets + 1] = name
    sets[#sets + 1] = value
    grows = grows or name:byte() ~= 64
  else
    removals = removals or {}
    removals[#removals + 1] = name
  end
end
grows = grows and not signs_in  -- a sign-in has to work on a full server

local expires = now + ARGV[3] + ARGV[4]
if own_tti then
  expires = now + own_tti + math.max(tonumber(ARGV[4]), math.floor(own_tti / 10))
end
if deadline and deadline < expires then
  expires = deadline
end

local lost = listed == false and not signs_in and deadline  -- the index has lost this session
local enter = (signs_in or lost) and function(score)
  local lasts = redis.call('PTTL', index)
  redis.call('ZADD', index, score, id)
  if lasts < deadline - now then
    redis.call('PEXPIREAT', index, deadline)
  end
end

-- At a login the entry is written first, so that a user can always find every signed-in session.
-- The ZREM, of no member, lets the ZADD work on a full server, which refuses only the first
-- write of a script.
if signs_in and index then
  redis.call('ZREM', index, '@')
  enter(now)
end

-- A full server refuses the first write of a script and no later one. So new data is written first;
-- a call that has to work on a full server (touch, remove, renew) restarts the tti before its HSET.
if not grows then
  redis.call('PEXPIREAT', key, expires)
end
if #sets <= 4000 then  -- unpack has a limit
  redis.call('HSET', key, unpack(sets))
else
  for start = 1, #sets, 4000 do
    redis.call('HSET', key, unpack(sets, start, math.min(start + 3999, #sets)))
  end
end
if grows or create then
  redis.call('PEXPIREAT', key, expires)  -- before HDEL, which a missing right may stop
end
if removals then
  for start = 1, #removals, 4000 do
    redis.call('HDEL', key, unpack(removals, start, math.min(start + 3999, #removals)))
  end
end

if lost then
  enter(login)
end

-- With pcall, so that writes work without the right to publish.
local notify = ARGV[9] ~= '' and ARGV[9]:match('[lk]')
if notify and signs_in then
  redis.pcall('PUBLISH', key:match('^.*:'), 's' .. key:match('[^:]+$') .. draft['@u'])
end
if notify and not create then  -- nobody watches a new session
  local told = {draft['@v'] and 'r' or 'c'}
  for name in pairs(notify == 'k' and draft or {}) do
    if name:byte() ~= 64 then
      told[#told + 1] = struct.pack('>I2', #name) .. name
    end
  end
  if draft['@v'] or #told > 1 then
    redis.pcall('SPUBLISH', key, table.concat(told))
  end
end

local remembered = own_tti and deadline and deadline - now or -1
return {'LIVE', now, expires - now, remembered, user, since, done, results}
