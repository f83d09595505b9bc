#!lua flags=allow-oom
--[[
Let a running run wait for a human: append `approval.required`, keep what its continuation needs, commit what
changed in its engine's memory of the thread, let go of it.

Runs under memory pressure: a run that could neither pause nor go on would hold its worker.

KEYS  1 record  2 log  3 snapshot  4 checkpoint  5 thread  6 thread runs  7 thread queue  8 spare
      9 active  10 memory  11 effects  12 callbacks  13 due callbacks
ARGV  1 now_ms  2 nonce  3 epoch  4 owner  5 expected top id  6 action_id  7 action  8 fingerprint  9 body
      10 state of the fold  11 expires_ms  12 live_ttl_ms  13 thread_ttl_ms
      14 has_checkpoint: 0 keeps the last state  15 checkpoint  16 control  17 run_id
      18 when a sweeper looks at it
      19 engine, or '' for an unchanged memory  20 bytes of the memory  21 its TTL in ms  22 puts
      then key and value of each put, then the keys that are deleted
Returns
  {'paused', epoch, deliveries}  deliveries: how many callbacks are due now; not said again to a repeat
  {'stopping', reason, epoch}    somebody asked to stop it: that wins
  {'refused', status, epoch}
  {'moved', top}
  {'gone'}
--]]
local record, log, snapshot, checkpoint, thread, runs, queue, spare, unfinished, memory, effects, callbacks, due =
  unpack(KEYS)
local now, nonce, epoch, owner, expected_top, action_id, action, fingerprint, body, state, expires, live_ttl,
  thread_ttl, has_checkpoint, bytes, control, run_id, look_at, _, _, _, _ = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce', 'stop_reason', 'callback')
if not r[1] then
  return { 'gone' }
end
if r[4] == nonce then
  return { 'paused', r[2] }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
if r[5] then
  return { 'stopping', r[5], r[2] }
end
local top = top_of(log)
if top ~= expected_top then
  return { 'moved', top }
end

local last = next_epoch(epoch, top, nonce)
append_control(log, last, top, 'approval.required', body)
redis.call('HSET', record, 'status', 'requires_action', 'epoch', last, 'nonce', nonce, 'action_id', action_id,
  'action', action, 'fingerprint', fingerprint, 'expires', expires, 'paused', now)
redis.call('HDEL', record, 'owner', 'task', 'published', 'sealed', 'waiting')
redis.call('HSET', snapshot, 'cursor', string.format('%d-0', last), 'state', state)
redis.call('HSET', checkpoint, 'v', 1, 'cursor', top)
redis.call('HDEL', checkpoint, 'fold') -- it is the snapshot's, until a continuation claims the run
if has_checkpoint == '1' then
  redis.call('HSET', checkpoint, 'state', bytes)
end
remember(memory, thread, ARGV, 19, record)
extend(effects, live_ttl)
for _, key in ipairs({ record, log, snapshot, checkpoint }) do
  extend(key, live_ttl)
end
for _, key in ipairs({ thread, runs, queue }) do
  extend(key, thread_ttl)
end
for _, engine in ipairs(engines_of(thread)) do
  extend(memory_of(thread, engine), thread_ttl)
end
redis.call('ZADD', unfinished, look_at, run_id)
shrink(log, spare) -- a pause may last for days
local own, deliveries = callback_of(r[6]), 0
if own.pauses then
  local event = '{"type":"run.requires_action","at":' .. now .. ',"action":' .. action .. '}'
  deliveries = call_back(callbacks, due, record, run_id, last, now, event, { own.to })
end
return { 'paused', last, deliveries }
