#!lua
--[[
Take one of a user's slots for a run that is about to be started or resumed. Repeating it changes nothing.

KEYS  1 slots
ARGV  1 now_ms  2 run_id  3 limit  4 live_ttl_ms  5 tag: runs of this thread do not count; '' for none
Returns
  {'taken'}
  {'full', members}              members: {run_id, taken_ms, …}, to be verified against their records
--]]
local slots = KEYS[1]
local now, run_id, limit, live_ttl, tag = unpack(ARGV)

if redis.call('ZSCORE', slots, run_id) then
  return { 'taken' }
end
local members = redis.call('ZRANGE', slots, 0, -1, 'WITHSCORES')
local counted = 0
for i = 1, #members, 2 do
  if tag == '' or string.sub(members[i], 1, #tag) ~= tag then
    counted = counted + 1
  end
end
if counted >= tonumber(limit) then
  return { 'full', members }
end
redis.call('ZADD', slots, now, run_id)
extend(slots, live_ttl)
return { 'taken' }
