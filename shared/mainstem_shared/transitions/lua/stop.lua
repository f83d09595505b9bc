#!lua flags=allow-oom
--[[
Record durably that somebody wants this run to stop; the first reason stands.

KEYS  1 record  2 active  3 children
ARGV  1 now_ms  2 reason  3 run_id  4 when a sweeper looks whether it stopped
Returns
  {'intended', status, epoch, owner, task_id, reason, children}
                                 children: how many it started
  {'already', status, reason}    it is over
  {'gone'}
--]]
local record, unfinished, children = unpack(KEYS)
local now, reason, run_id, look_at = unpack(ARGV)

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
look_by(unfinished, run_id, look_at)
return { 'intended', r[1], r[2], r[3] or '', r[4] or '', redis.call('HGET', record, 'stop_reason'),
  redis.call('SCARD', children) }
