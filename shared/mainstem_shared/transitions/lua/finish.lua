#!lua flags=allow-oom
--[[
End a run for good: append `run.finished`, keep its outcome for the retention, commit what changed in its
engine's memory of the thread, free the thread, and have its deltas dropped later.

Runs under memory pressure: a run that cannot end would hold its thread and its memory.

KEYS  1 record  2 log  3 snapshot  4 checkpoint  5 thread  6 thread queue  7 thread runs
      8 active  9 compact  10 memory  11 effects  12 callbacks  13 due callbacks
ARGV  1 now_ms  2 nonce  3 run_id  4 epoch  5 owner, or '' for a run that nobody runs  6 expected top id
      7 status  8 reason  9 body  10 error, or ''  11 retention_ms
      12 inputs_read: how many of its inputs the caller's fold has; the others are handed back as `unread`
      13 control  14 when its deltas are dropped  15 when a sweeper looks at the run that the thread goes to
      16 who is called back at every run's end: a JSON list of targets, or ''
      17 engine, or '' for an unchanged memory  18 bytes of the memory  19 its TTL in ms  20 puts
      then key and value of each put, then the keys that are deleted
Returns
  {'finished', epoch, next_run, deliveries}
                                 next_run: who holds the thread now and wants a message; or ''
                                 deliveries: how many callbacks are due now; not said again to a repeat
  {'already', status, reason}    it ended before; the first outcome stands
  {'refused', status, epoch}     control has changed hands
  {'moved', top}                 the log has entries that the caller's fold does not cover
  {'gone'}
--]]
local record, log, snapshot, checkpoint, thread, queue, runs, unfinished, compact, memory, effects, callbacks, due =
  unpack(KEYS)
local now, nonce, run_id, epoch, owner, expected_top, status, reason, body, err, retention, read,
  control, compact_at, look_at, everyone, _, _, _, _ =
  unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce', 'reason', 'next_run', 'inputs',
  'callback')
if not r[1] then
  return { 'gone' }
end
if r[4] == nonce then
  return { 'finished', r[2], r[6] or '' }
end
if not ACTIVE[r[1]] then
  return { 'already', r[1], r[5] }
end
if not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
local top = top_of(log)
if top ~= expected_top then
  return { 'moved', top }
end

local unread = inputs_after(record, read, r[7])
if #unread > 0 then
  body = string.sub(body, 1, -2) .. ',"unread":[' .. table.concat(unread, ',') .. ']}'
end
local last = next_epoch(epoch, top, nonce)
append_control(log, last, top, 'run.finished', body)
redis.call('HSET', record, 'status', status, 'reason', reason, 'epoch', last, 'finished', now, 'nonce', nonce)
if err ~= '' then
  redis.call('HSET', record, 'error', err)
end
redis.call('HDEL', record, 'waiting', 'published', 'sealed', 'action', 'fingerprint', 'expires',
  'resume_as', 'restart', 'inputs_read', 'if_active')
for number = 1, tonumber(r[7] or '0') do
  redis.call('HDEL', record, 'input:' .. number)
end
redis.call('DEL', snapshot, checkpoint)
redis.call('DEL', effects)
redis.call('PEXPIRE', record, retention)
redis.call('PEXPIRE', log, retention)
extend(runs, retention)
remember(memory, thread, ARGV, 17, record)
redis.call('ZREM', unfinished, run_id)
redis.call('ZADD', compact, compact_at, run_id)
local next_run = false
if redis.call('HGET', thread, 'active') == run_id then
  next_run = promote_next(thread, queue, now)
else
  redis.call('LREM', queue, 0, run_id)
end
if next_run then
  redis.call('HSET', record, 'next_run', next_run)
  look_by(unfinished, next_run, look_at)
end
local deliveries = 0
if r[8] or everyone ~= '' then
  local own = callback_of(r[8])
  local event = '{"type":"run.ended","at":' .. now .. ',"status":"' .. status .. '","reason":"' .. reason .. '"'
    .. (err ~= '' and ',"error":' .. err or '') .. '}'
  local all = everyone ~= '' and cjson.decode(everyone) or {}
  deliveries = call_back(callbacks, due, record, run_id, last, now, event, { own.to, own.all, all })
end
return { 'finished', last, next_run or '', deliveries }
