#!lua
--[[
Note that a side effect of the engine begins, or what came of it, beside the run's record.

KEYS  1 record  2 effects
ARGV  1 epoch  2 owner  3 control  4 key of the effect  5 entry  6 replace: 1 for a result, which replaces its intent
      7 live_ttl_ms  8 limit of effects
Returns
  {'noted'}                      also of a call that is repeated
  {'known', entry}               it began before: this is what is known of it
  {'full'}                       the run has as many effects as it may
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'gone'}
--]]
local record, effects = unpack(KEYS)
local epoch, owner, control, key, entry, replace, live_ttl, limit = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'nonce')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
local known = redis.call('HGET', effects, key)
if known == entry then
  return { 'noted' }
end
if known and replace ~= '1' then
  return { 'known', known }
end
if not known and redis.call('HLEN', effects) >= tonumber(limit) then
  return { 'full' }
end
redis.call('HSET', effects, key, entry)
extend(effects, live_ttl)
return { 'noted' }
