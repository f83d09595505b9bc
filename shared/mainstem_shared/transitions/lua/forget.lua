#!lua flags=allow-oom
--[[
Remove a run that is over, with everything it has in its bucket's slot; the last one takes the thread along, and
what its engines keep on it.

KEYS  1 record  2 log  3 snapshot  4 checkpoint  5 thread  6 thread runs  7 thread queue
      8 active  9 recent  10 compact  11 effects
ARGV  1 run_id  2 keep: 1 leaves the thread's memories, as the archive may have other runs of it
Returns
  {'forgotten'}                  it is not there any more; also if it never was
  {'refused', status}            it is not over
--]]
local record, log, snapshot, checkpoint, thread, runs, queue, unfinished, recent, compact, effects = unpack(KEYS)
local run_id, keep = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'idem')
if r[1] and ACTIVE[r[1]] then
  return { 'refused', r[1] }
end

if r[2] then
  redis.call('DEL', r[2]) -- in the same slot by construction
end
redis.call('DEL', record, log, snapshot, checkpoint)
redis.call('DEL', effects)
redis.call('LREM', queue, 0, run_id)
for _, index in ipairs({ runs, unfinished, recent, compact }) do
  redis.call('ZREM', index, run_id)
end
if redis.call('HGET', thread, 'active') == run_id then
  redis.call('HDEL', thread, 'active')
end
forget_thread(thread, runs, queue, keep)
return { 'forgotten' }
