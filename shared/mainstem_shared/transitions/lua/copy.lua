#!lua
--[[
Create a copy of another thread's run: over from the start, its whole content in its last entry. Nobody executes it.
What its engine keeps on the thread comes with the copy of the run that changed it last.

KEYS  1 record  2 log  3 thread  4 thread runs  5 recent  6 compact  7 memory
ARGV  1 now_ms  2 nonce: the same for every call that makes this copy  3 run_id  4 spec  5 input
      6 body of `run.finished`  7 status  8 reason  9 error, or ''  10 decisions, or ''
      11 title  12 labels  13 metadata: what people say about it, or ''  14 retention_ms
      15 when its deltas are dropped, or it is archived  16 version of the record
      17 previous: the copy before this one, or ''
      18 engine, or '' for no memory  19 bytes of the memory  20 its TTL in ms  21 puts
      then key and value of each put
Returns
  {'copied'}     also to a repeat
  {'taken'}      the thread has other runs, or was another user's
--]]
local record, log, thread, runs, recent, compact, memory = unpack(KEYS)
local now, nonce, run_id, spec, input, body, status, reason, err, decisions, title, labels, metadata,
  retention, compact_at, version, previous, _, _, _, _ = unpack(ARGV)

local mine = redis.call('HGET', record, 'n0')
if mine then
  return { mine == nonce and 'copied' or 'taken' }
end
local made = cjson.decode(spec)
local newest = redis.call('ZREVRANGE', runs, 0, 0)[1]
local user = redis.call('HGET', thread, 'user')
if (newest and newest ~= previous) or (user and user ~= made.user_id) then
  return { 'taken' }
end

append_control(log, 2, '1-0', 'run.finished', body)
redis.call('HSET', record, 'n0', nonce, 'nonce', nonce, 'status', status, 'reason', reason, 'epoch', 2,
  'spec', spec, 'input', input, 'behind', '', 'v', version, 'started', now, 'finished', now)
if err ~= '' then
  redis.call('HSET', record, 'error', err)
end
if decisions ~= '' then
  redis.call('HSET', record, 'decisions', decisions)
end
if title ~= '' then
  redis.call('HSET', record, 'title', title)
end
if labels ~= '' then
  redis.call('HSET', record, 'labels', labels)
end
if metadata ~= '' then
  redis.call('HSET', record, 'metadata', metadata)
end
redis.call('PEXPIRE', record, retention)
redis.call('PEXPIRE', log, retention)
redis.call('ZADD', runs, made.created_ms, run_id)
redis.call('ZADD', recent, made.created_ms, run_id)
redis.call('ZADD', compact, compact_at, run_id)
extend(runs, retention)
remember(memory, thread, ARGV, 18, record)
return { 'copied' }
