#!lua flags=allow-oom
--[[
Take a running run from its owner and close its log to it, before finishing or re-queueing it.

Runs under memory pressure: it is the first step of ending a run that lost its owner.

KEYS  1 record  2 log
ARGV  1 now_ms  2 nonce  3 sealer  4 expected_epoch  5 body
      6 control: of the owner, as the caller has read it; or ''
Returns
  {'sealed', epoch}
  {'refused', status, epoch}     not running, or control has changed hands since `expected_epoch`
  {'gone'}
--]]
local record, log = unpack(KEYS)
local now, nonce, sealer, expected, body, control = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'nonce', 'owner')
if not r[1] then
  return { 'gone' }
end
if r[3] == nonce then
  return { 'sealed', r[2] }
end
if r[1] ~= 'running' or not holds(r[2], r[4], r[3], expected, r[4] or '', control) then
  return { 'refused', r[1], r[2] }
end

local top = top_of(log)
local epoch = next_epoch(r[2], top, nonce)
append_control(log, epoch, top, 'run.sealed', body)
if redis.call('PTTL', log) < 0 then
  redis.call('PEXPIRE', log, math.max(redis.call('PTTL', record), 1)) -- the log was lost: this is a new key
end
redis.call('HSET', record, 'epoch', epoch, 'owner', sealer, 'nonce', nonce, 'sealed', now)
return { 'sealed', epoch }
