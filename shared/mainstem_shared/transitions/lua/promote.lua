#!lua flags=allow-oom
--[[
Give a thread that nobody holds to the next run of its queue; while somebody holds it, keep those that wait alive.

Normally `finish` hands a thread on. This is for a holder whose record is gone, or a queue that was lost.

KEYS  1 record  2 log  3 thread  4 thread queue  5 active
ARGV  1 now_ms  2 run_id  3 live_ttl_ms  4 thread_ttl_ms
      5 when a sweeper looks whether the message of the run that the thread goes to went out
Returns
  {'promoted', next_run}         next_run holds the thread now and wants a message
  {'held', active}               it is not free
  {'refused', status}            this run does not wait for its thread
  {'gone'}
--]]
local record, log, thread, queue, unfinished = unpack(KEYS)
local now, run_id, live_ttl, thread_ttl, look_at = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'waiting')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'queued' or r[2] ~= 'thread' then
  return { 'refused', r[1] }
end

extend(record, live_ttl)
extend(log, live_ttl)
extend(queue, thread_ttl)
local active = redis.call('HGET', thread, 'active')
if active and ACTIVE[redis.call('HGET', record_of(thread, active), 'status') or ''] then
  extend(thread, thread_ttl)
  return { 'held', active }
end
local next_run = promote_next(thread, queue, now)
if not next_run then -- the queue does not know of it any more
  redis.call('HSET', record, 'waiting', 'worker', 'queued', now)
  redis.call('HSET', thread, 'active', run_id)
  next_run = run_id
end
extend(thread, thread_ttl)
look_by(unfinished, next_run, look_at)
return { 'promoted', next_run }
