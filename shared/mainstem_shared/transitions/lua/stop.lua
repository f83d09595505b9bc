#!lua flags=allow-oom
--[[
Record durably that somebody wants this run to stop; the first reason stands.

KEYS  1 record
ARGV  1 now_ms  2 reason
Returns
  {'intended', status, epoch, owner, task_id, reason}
  {'already', status, reason}    it is over
  {'gone'}
--]]
local record = KEYS[1]
local now, reason = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'task', 'reason')
if not r[1] then
  return { 'gone' }
end
if not ACTIVE[r[1]] then
  return { 'already', r[1], r[5] }
end

if redis.call('HSETNX', record, 'stop_reason', reason) == 1 then
  redis.call('HSET', record, 'stop_ms', now)
end
return { 'intended', r[1], r[2], r[3] or '', r[4] or '', redis.call('HGET', record, 'stop_reason') }
