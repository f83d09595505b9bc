#!lua flags=allow-oom
--[[
Repair a log that lost an acknowledged tail: the owner writes its whole fold as the first entry of a new epoch.

KEYS  1 record  2 log  3 snapshot
ARGV  1 now_ms  2 nonce  3 epoch  4 owner  5 state  6 live_ttl_ms  7 control
Returns
  {'resynced', epoch}
  {'refused', status, epoch}
  {'gone'}
--]]
local record, log, snapshot = unpack(KEYS)
local now, nonce, epoch, owner, state, live_ttl, control = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce')
if not r[1] then
  return { 'gone' }
end
if r[4] == nonce then
  return { 'resynced', r[2] }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end

local top = top_of(log)
local last = next_epoch(epoch, top, nonce)
append_control(log, last, top, 'resync', state)
redis.call('HSET', record, 'epoch', last, 'nonce', nonce)
redis.call('HINCRBY', record, 'restarts', 1) -- readers that only know how to append begin anew
redis.call('HSET', snapshot, 'cursor', string.format('%d-0', last), 'state', state)
extend(snapshot, live_ttl)
extend(log, live_ttl)
return { 'resynced', last }
