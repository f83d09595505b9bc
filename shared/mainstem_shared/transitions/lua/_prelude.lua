-- Shared by every verb: prepended to each script after its shebang line.

local ACTIVE = { queued = true, running = true, requires_action = true }

-- The id of a log's top entry; '0-0' for a log that is empty or missing.
local function top_of(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if #last == 0 then
    return '0-0'
  end
  return last[1][1]
end

local function epoch_of(id)
  return tonumber(string.match(id, '^(%d+)-'))
end

-- True if id a is after id b.
local function is_after(a, b)
  local ae, as = string.match(a, '^(%d+)-(%d+)$')
  local be, bs = string.match(b, '^(%d+)-(%d+)$')
  ae, as, be, bs = tonumber(ae), tonumber(as), tonumber(be), tonumber(bs)
  return ae > be or (ae == be and as > bs)
end

-- The epoch after the record's and the log's: a log may be ahead of a record that a fail-over lost. The caller's
-- nonce, `<gap>.<random>`, draws how far after: a server that lost the last change of control does not give the
-- epoch of it to somebody else, whose entries and cursors would look the same.
local function next_epoch(record_epoch, top, nonce)
  local gap = tonumber(string.match(nonce, '^(%d+)%.') or 0)
  return math.max(tonumber(record_epoch), epoch_of(top)) + 1 + gap
end

-- True if `epoch`, `owner` and `control` are the record's. `control` is the nonce of the call that opened the epoch:
-- two that share an epoch, because the server lost the first, do not share it. '' for a caller that does not know.
local function holds(r_epoch, r_owner, r_nonce, epoch, owner, control)
  return r_epoch == epoch and (r_owner or '') == owner and (control == '' or control == (r_nonce or ''))
end

-- Append the control entry that opens `epoch`. `body` is a JSON object; `prev` is spliced in as its first
-- member. This is each verb's first write: if the server refuses it, nothing has changed.
local function append_control(log, epoch, prev, kind, body)
  local rest = string.sub(body, 2)
  local comma = rest == '}' and '' or ','
  redis.call('XADD', log, string.format('%d-0', epoch), kind, '{"prev":"' .. prev .. '"' .. comma .. rest)
end

-- Lengthen a key's life to at least ttl ms; never shorten it. (EXPIRE .. GT ignores keys without a TTL.)
local function extend(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- Write a stream anew, in as little memory as holds it: the server allocates 4 KB for a stream's first node, and
-- whatever that node once held stays. `spare` is a key of the same slot that is there only meanwhile.
local function shrink(stream, spare)
  redis.call('COPY', stream, spare, 'REPLACE') -- with its TTL
  redis.call('RENAME', spare, stream)
end

-- The record key of another run of the same thread; same slot by construction.
local function record_of(thread_key, run_id)
  local unique = string.match(run_id, '_(.+)$')
  return string.sub(thread_key, 1, -7) .. unique .. ':record'
end

-- Have a sweeper look at an unfinished run by then, if it would not sooner.
local function look_by(active, run_id, at)
  redis.call('ZADD', active, 'LT', at, run_id)
end

-- The key of an engine's memory of a thread; same slot by construction.
local function memory_of(thread_key, engine)
  return string.sub(thread_key, 1, -7) .. 'memory:' .. engine
end

-- Commit what an engine keeps on its thread. `args` has from `first` on: engine ('' for no change), bytes of all of
-- it afterwards, its TTL, number of puts, then key and value of each, then the keys that are deleted. The thread
-- lists it, and which run (the last part of its id) changed it last: a fork after that run takes the memory along.
local function remember(memory, thread, args, first, record)
  local engine, size, ttl = args[first], args[first + 1], args[first + 2]
  if engine == '' then
    return
  end
  local at = first + 4
  for _ = 1, tonumber(args[first + 3]) do
    redis.call('HSET', memory, args[at], args[at + 1])
    at = at + 2
  end
  while args[at] do
    redis.call('HDEL', memory, args[at])
    at = at + 1
  end
  if redis.call('EXISTS', memory) == 1 then
    redis.call('HSET', thread, 'memory:' .. engine, size, 'wrote:' .. engine, string.match(record, '([^:]+):record$'))
    extend(memory, ttl)
    extend(thread, ttl)
  else
    redis.call('HDEL', thread, 'memory:' .. engine, 'wrote:' .. engine)
  end
end

-- The engines that keep something on a thread.
local function engines_of(thread)
  local engines = {}
  for _, field in ipairs(redis.call('HKEYS', thread)) do
    engines[#engines + 1] = string.match(field, '^memory:(.+)$')
  end
  return engines
end

-- Remove a thread's own keys, unless it has runs. `keep`: '1' leaves what its engines keep on it.
local function forget_thread(thread, runs, queue, keep)
  if redis.call('ZCARD', runs) > 0 then
    return
  end
  redis.call('DEL', queue)
  if keep == '1' then
    return
  end
  for _, engine in ipairs(engines_of(thread)) do
    redis.call('DEL', memory_of(thread, engine))
  end
  redis.call('DEL', thread)
end

-- What users said to a run after input number `known`, in order; `total`: the record's `inputs`, if any.
local function inputs_after(record, known, total)
  local entries = {}
  for number = tonumber(known) + 1, tonumber(total or '0') do
    entries[#entries + 1] = redis.call('HGET', record, 'input:' .. number)
  end
  return entries
end

-- Give the thread to the next run of its queue that still waits, and name it; false if there is none. Its
-- wait for a worker begins now: waiting for its turn does not count.
local function promote_next(thread, queue, now)
  while true do
    local next_run = redis.call('LPOP', queue)
    if not next_run then
      redis.call('HDEL', thread, 'active')
      return false
    end
    local record = record_of(thread, next_run)
    if redis.call('HGET', record, 'status') == 'queued' then
      redis.call('HSET', record, 'waiting', 'worker', 'queued', now)
      redis.call('HSET', thread, 'active', next_run)
      return next_run
    end
  end
end

-- How long deliveries outlive their event, in ms: a day of attempts, and a week in which people see what failed.
local CALLBACKS_KEPT = 8 * 86400000

-- The targets that a record's `callback` names; none if it is damaged: a run must be able to end.
local function callback_of(text)
  local readable, callback = pcall(cjson.decode, text or '')
  if not readable or type(callback) ~= 'table' then
    return { to = {}, all = {} }
  end
  return { to = callback.to or {}, all = callback.all or {}, pauses = callback.pauses == true }
end

-- Create the deliveries of an event that happened in `epoch`, one for each target, due now. `lists` are JSON
-- lists of targets. The run's spec is kept beside them, for the run may be deleted before they are made.
local function call_back(callbacks, due, record, run_id, epoch, now, event, lists)
  local count, known = 0, {}
  for _, list in ipairs(lists) do
    for _, target in ipairs(list) do
      if not known[target] then
        known[target] = true
        count = count + 1
        local delivery = string.format('%d.%d', epoch, count)
        redis.call('HSET', callbacks, delivery, target)
        redis.call('ZADD', due, now, run_id .. '.' .. delivery)
      end
    end
  end
  if count > 0 then
    redis.call('HSET', callbacks, string.format('%d', epoch), event, 'spec', redis.call('HGET', record, 'spec') or '')
    extend(callbacks, CALLBACKS_KEPT)
  end
  return count
end
