#!lua
--[[
Save the engine's own state, and the last event it covers; a continuation goes on from there.

KEYS  1 record  2 log  3 checkpoint
ARGV  1 epoch  2 owner  3 cursor  4 state  5 live_ttl_ms  6 the fold at the cursor  7 control
Returns
  {'stored'}
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'stale', cursor}              a checkpoint after this cursor exists, or the log does not reach it
  {'gone'}
--]]
local record, log, checkpoint = unpack(KEYS)
local epoch, owner, cursor, state, live_ttl, fold, control = unpack(ARGV)

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
return { 'stored' }
