#!lua flags=allow-oom
--[[
Store the owner's fold up to `cursor`, and drop the entries that the previous snapshot covered.

Runs under memory pressure, because it frees memory.

KEYS  1 record  2 log  3 snapshot
ARGV  1 epoch  2 owner  3 cursor  4 state, or the text of a patch  5 live_ttl_ms
      6 the patch's base: the stored snapshot's cursor; '' for a whole state  7 its length  8 insert after this byte
      9 control
Returns
  {'stored'}
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'stale', cursor}              a snapshot at or after this cursor exists, the log does not reach it, or the
                                 patch has another base
  {'gone'}
--]]
local record, log, snapshot = unpack(KEYS)
local epoch, owner, cursor, state, live_ttl, base, length, at, control = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
local previous = redis.call('HGET', snapshot, 'cursor')
if previous == cursor then
  return { 'stored' }
end
if (previous and is_after(previous, cursor)) or is_after(cursor, top_of(log)) then
  return { 'stale', previous or '' }
end
if base ~= '' then
  local stored = previous == base and redis.call('HGET', snapshot, 'state')
  if not stored or #stored ~= tonumber(length) then
    return { 'stale', previous or '' }
  end
  state = string.sub(stored, 1, at) .. state .. string.sub(stored, at + 1)
end

redis.call('HSET', snapshot, 'cursor', cursor, 'state', state)
extend(snapshot, live_ttl)
if previous then
  redis.call('XTRIM', log, 'MINID', '=', previous)
end
return { 'stored' }
