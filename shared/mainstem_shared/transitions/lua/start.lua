#!lua
--[[
Create a run: its record, its log with `1-0 run.created`, its place on the thread and in the indexes.

KEYS  1 record  2 log  3 thread  4 thread runs  5 thread queue  6 idempotency
      7 active  8 recent
ARGV  1 now_ms  2 nonce  3 run_id  4 spec  5 input  6 created body  7 live_ttl_ms  8 thread_ttl_ms
      9 if_active  10 body digest, or '' for no idempotency key  11 idempotency_ttl_ms  12 queue_limit
      13 version of the record  14 private; '' where users share threads; archived: answer 'unknown'
      15 when a sweeper first looks at it  16 when one looks whether a run that it replaces stopped
      17 callback: the targets of its callbacks, as JSON, or ''
Returns
  {'started', waiting, active, superseded}
                                 the run is queued; waiting: worker | thread; active: who holds the thread;
                                 superseded: a waiting replacement that was asked to stop in its turn, or ''
  {'exists'}                     another call created this run id
  {'replayed', run_id}           the idempotency key belongs to this run, same body
  {'reused', run_id}             ... another body
  {'busy', active}               the thread is taken (if_active = reject)
  {'queue_full', active}         as many runs wait as may
  {'foreign'}                    the thread has another user's runs
  {'unknown'}                    nobody here knows whose the thread is: the archive may
--]]
local record, log, thread, runs, queue, idem, unfinished, recent = unpack(KEYS)
local now, nonce, run_id, spec, input, body, live_ttl, thread_ttl, if_active, digest, idem_ttl, limit,
  version, private, look_at, stop_look_at, callback = unpack(ARGV)

local function want_replaced(another)
  local other = record_of(thread, another)
  if redis.call('HSETNX', other, 'stop_reason', 'replaced') == 1 then
    redis.call('HSET', other, 'stop_ms', now)
  end
  look_by(unfinished, another, stop_look_at)
end

local function user_of(run)
  local found = run and redis.call('HGET', record_of(thread, run), 'spec')
  return found and cjson.decode(found).user_id
end

local mine = redis.call('HMGET', record, 'n0', 'behind')
if mine[1] then
  if mine[1] == nonce then
    return { 'started', mine[2] == '' and 'worker' or 'thread', mine[2], '' }
  end
  return { 'exists' }
end
if digest ~= '' then
  local seen = redis.call('GET', idem)
  if seen then
    local owner, first = string.match(seen, '^(%S+) (%S+)$')
    return { first == digest and 'replayed' or 'reused', owner }
  end
end
local held = redis.call('HMGET', thread, 'active', 'user')
local active = held[1]
if private ~= '' then
  local me = cjson.decode(spec).user_id
  local holder, last = user_of(active), user_of(redis.call('ZREVRANGE', runs, 0, 0)[1])
  if (holder and holder ~= me) or (last and last ~= me) or (not last and held[2] and held[2] ~= me) then
    return { 'foreign' }
  end
  if private == 'archived' and not (holder or last or held[2]) then
    return { 'unknown' }
  end
end
if active and not ACTIVE[redis.call('HGET', record_of(thread, active), 'status') or ''] then
  active = false -- its record expired: nobody holds the thread
end
if active and if_active == 'reject' then
  return { 'busy', active }
end
if active and redis.call('LLEN', queue) >= tonumber(limit) then
  return { 'queue_full', active }
end

append_control(log, 1, '0-0', 'run.created', body)
local superseded = ''
local waiting = active and 'thread' or 'worker'
redis.call('HSET', record, 'n0', nonce, 'status', 'queued', 'waiting', waiting, 'epoch', 1,
  'spec', spec, 'input', input, 'behind', active or '', 'if_active', if_active, 'v', version)
if callback ~= '' then
  redis.call('HSET', record, 'callback', callback)
end
redis.call('PEXPIRE', record, live_ttl)
redis.call('PEXPIRE', log, live_ttl)
if not active then
  redis.call('HSET', thread, 'active', run_id)
elseif if_active == 'replace' then
  want_replaced(active)
  local first = redis.call('LINDEX', queue, 0)
  if first and redis.call('HGET', record_of(thread, first), 'if_active') == 'replace' then
    want_replaced(first)
    superseded = first -- a replacement that waits is replaced in its turn
  end
  redis.call('LPUSH', queue, run_id)
else
  redis.call('RPUSH', queue, run_id)
end
redis.call('ZADD', runs, now, run_id)
redis.call('ZADD', unfinished, look_at, run_id)
redis.call('ZADD', recent, now, run_id)
local oldest = redis.call('ZRANGEBYSCORE', runs, '-inf', tonumber(now) - tonumber(thread_ttl), 'LIMIT', 0, 10)
for _, old in ipairs(oldest) do -- or a thread that never rests would list its runs for ever
  if redis.call('EXISTS', record_of(thread, old)) == 0 then
    redis.call('ZREM', runs, old)
  end
end
extend(thread, thread_ttl)
extend(runs, thread_ttl)
if active then
  extend(queue, thread_ttl)
end
if digest ~= '' then
  redis.call('SET', idem, run_id .. ' ' .. digest, 'PX', idem_ttl)
  redis.call('HSET', record, 'idem', idem)
end
return { 'started', waiting, active or '', superseded }
