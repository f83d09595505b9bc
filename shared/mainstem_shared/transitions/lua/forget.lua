#!lua flags=allow-oom
--[[
Remove a run that is over, with everything it has in its bucket's slot; the last one takes the thread along.

KEYS  1 record  2 log  3 snapshot  4 checkpoint  5 thread  6 thread runs  7 thread queue
      8 active  9 recent  10 compact
ARGV  1 run_id
Returns
  {'forgotten'}                  it is not there any more; also if it never was
  {'refused', status}            it is not over
--]]
local record, log, snapshot, checkpoint, thread, runs, queue, unfinished, recent, compact = unpack(KEYS)
local run_id = ARGV[1]

local r = redis.call('HMGET', record, 'status', 'idem')
if r[1] and ACTIVE[r[1]] then
  return { 'refused', r[1] }
end

if r[2] then
  redis.call('DEL', r[2]) -- in the same slot by construction
end
redis.call('DEL', record, log, snapshot, checkpoint)
redis.call('LREM', queue, 0, run_id)
for _, index in ipairs({ runs, unfinished, recent, compact }) do
  redis.call('ZREM', index, run_id)
end
if redis.call('HGET', thread, 'active') == run_id then
  redis.call('HDEL', thread, 'active')
end
if redis.call('ZCARD', runs) == 0 then
  redis.call('DEL', thread, queue)
end
return { 'forgotten' }
