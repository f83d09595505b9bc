#!lua flags=allow-oom
--[[
Store the owner's fold up to `cursor`, and drop the entries that the previous snapshot covered.

Runs under memory pressure, because it frees memory.

KEYS  1 record  2 log  3 snapshot
ARGV  1 epoch  2 owner  3 cursor  4 state  5 live_ttl_ms
Returns
  {'stored'}
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'stale', cursor}              a snapshot at or after this cursor exists, or the log does not reach it
  {'gone'}
--]]
local record, log, snapshot = unpack(KEYS)
local epoch, owner, cursor, state, live_ttl = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'running' or r[2] ~= epoch or r[3] ~= owner then
  return { 'refused', r[1], r[2] }
end
local previous = redis.call('HGET', snapshot, 'cursor')
if previous == cursor then
  return { 'stored' }
end
if (previous and is_after(previous, cursor)) or is_after(cursor, top_of(log)) then
  return { 'stale', previous or '' }
end

redis.call('HSET', snapshot, 'cursor', cursor, 'state', state)
extend(snapshot, live_ttl)
if previous then
  redis.call('XTRIM', log, 'MINID', '=', previous)
end
return { 'stored' }
