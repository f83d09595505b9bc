#!lua
--[[
Save the engine's own state, and the last event it covers; a continuation goes on from there. What changed in
its memory of the thread is committed with it.

KEYS  1 record  2 log  3 checkpoint  4 thread  5 memory
ARGV  1 epoch  2 owner  3 cursor  4 state  5 live_ttl_ms  6 the fold at the cursor  7 control
      8 engine, or '' for an unchanged memory  9 bytes of the memory  10 its TTL in ms  11 puts
      then key and value of each put, then the keys that are deleted
Returns
  {'stored'}
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'stale', cursor}              a checkpoint after this cursor exists, or the log does not reach it
  {'gone'}
--]]
local record, log, checkpoint, thread, memory = unpack(KEYS)
local epoch, owner, cursor, state, live_ttl, fold, control, _, _, _, _ = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
local previous = redis.call('HGET', checkpoint, 'cursor')
if (previous and is_after(previous, cursor)) or is_after(cursor, top_of(log)) then
  return { 'stale', previous or '' }
end

redis.call('HSET', checkpoint, 'v', 1, 'cursor', cursor, 'state', state, 'fold', fold)
extend(checkpoint, live_ttl)
remember(memory, thread, ARGV, 8, record)
return { 'stored' }
