#!lua
--[[
Put a paused run back into the queue, with what was decided about its action; a continuation claims it.

The first decision stands: its digest is kept as long as the run, so that the same one is answered the same.

KEYS  1 record  2 log  3 snapshot  4 checkpoint  5 active  6 effects
ARGV  1 now_ms  2 nonce  3 action_id  4 fingerprint of the action that was judged  5 digest of the decisions
      6 decisions  7 event type  8 body  9 live_ttl_ms  10 at_expiry: 1 for an action whose window is over
      11 run_id  12 when a sweeper looks whether its message went out
Returns
  {'resolved', epoch}
  {'repeated'}                   decided before, the same
  {'conflict'}                   decided before, otherwise
  {'expired', epoch}             its window is over; with at_expiry: not yet
  {'stale', action_id}           the run waits for another action
  {'stopping', reason, epoch}    somebody asked to stop it
  {'refused', status, epoch}     not paused
  {'gone'}
--]]
local record, log, snapshot, checkpoint, unfinished, effects = unpack(KEYS)
local now, nonce, action_id, fingerprint, digest, decisions, kind, body, live_ttl, at_expiry, run_id,
  look_at = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'nonce', 'resolved:' .. action_id, 'action_id',
  'expires', 'stop_reason', 'fingerprint', 'decisions')
local status, epoch = r[1], r[2]
if not status then
  return { 'gone' }
end
if r[3] == nonce then
  return { 'resolved', epoch }
end
if r[4] == digest then
  return { 'repeated' }
end
if r[4] then
  return { 'conflict' }
end
if status ~= 'requires_action' then
  return { 'refused', status, epoch }
end
if r[5] ~= action_id or r[8] ~= fingerprint then
  return { 'stale', r[5] }
end
if r[7] then
  return { 'stopping', r[7], epoch }
end
if (tonumber(now) >= tonumber(r[6])) ~= (at_expiry == '1') then
  return { 'expired', epoch }
end

local top = top_of(log)
epoch = next_epoch(epoch, top, nonce)
append_control(log, epoch, top, kind, body)
local earlier = r[9] and string.sub(r[9], 1, -2) .. ',' or '['
redis.call('HSET', record, 'status', 'queued', 'waiting', 'worker', 'epoch', epoch, 'nonce', nonce, 'queued', now,
  'resume_as', 'run.resumed', 'decisions', earlier .. decisions .. ']', 'resolved:' .. action_id, digest)
redis.call('HDEL', record, 'action', 'expires', 'fingerprint', 'publishes')
for _, key in ipairs({ record, log, snapshot, checkpoint }) do
  extend(key, live_ttl)
end
extend(effects, live_ttl)
look_by(unfinished, run_id, look_at)
return { 'resolved', epoch }
