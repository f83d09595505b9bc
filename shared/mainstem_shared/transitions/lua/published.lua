#!lua
--[[
Note that the message of a queued run reached the broker, and under which task id.

KEYS  1 record
ARGV  1 now_ms  2 task_id
Returns  {'noted'} | {'refused'}  (claimed meanwhile, over, or gone)
--]]
local record = KEYS[1]
if redis.call('HGET', record, 'status') ~= 'queued' then
  return { 'refused' }
end
redis.call('HSET', record, 'published', ARGV[1], 'task', ARGV[2])
redis.call('HINCRBY', record, 'publishes', 1)
return { 'noted' }
