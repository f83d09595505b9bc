#!lua flags=allow-oom
--[[
Give a running run back to the queue: at shutdown, or after its owner was lost; a continuation claims it.

KEYS  1 record  2 log  3 snapshot  4 active
ARGV  1 now_ms  2 nonce  3 epoch  4 owner  5 expected top id  6 resume_as  7 body  8 state
      9 live_ttl_ms  10 lost: 1 counts an attempt after a loss
      11 restart: the state that the next claim's entry carries, or ''
      12 control  13 run_id  14 when a sweeper looks whether its message went out
Returns
  {'queued', epoch}
  {'refused', status, epoch}
  {'moved', top}
  {'gone'}
--]]
local record, log, snapshot, unfinished = unpack(KEYS)
local now, nonce, epoch, owner, expected_top, resume_as, body, state, live_ttl, lost, restart,
  control, run_id, look_at =
  unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce')
if not r[1] then
  return { 'gone' }
end
if r[4] == nonce then
  return { 'queued', r[2] }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
local top = top_of(log)
if top ~= expected_top then
  return { 'moved', top }
end

local last = next_epoch(epoch, top, nonce)
append_control(log, last, top, 'run.queued', body)
redis.call('HSET', record, 'status', 'queued', 'waiting', 'worker', 'epoch', last, 'nonce', nonce,
  'resume_as', resume_as, 'queued', now)
redis.call('HDEL', record, 'owner', 'published', 'sealed', 'task')
redis.call('HINCRBY', record, 'attempts', lost)
if restart ~= '' then
  redis.call('HSET', record, 'restart', restart)
end
redis.call('HSET', snapshot, 'cursor', string.format('%d-0', last), 'state', state)
extend(snapshot, live_ttl)
extend(record, live_ttl)
extend(log, live_ttl)
look_by(unfinished, run_id, look_at)
return { 'queued', last }
