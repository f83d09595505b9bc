#!lua
--[[
Give a run's owner the inputs that it does not know yet, and note how many its engine has read.

KEYS  1 record
ARGV  1 epoch  2 owner  3 read: as many as the log says  4 known: as many as the owner has
Returns
  {'inputs', entries}            those after the known ones, in order of arrival
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'gone'}
--]]
local record = KEYS[1]
local epoch, owner, read, known = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'inputs')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'running' or r[2] ~= epoch or r[3] ~= owner then
  return { 'refused', r[1], r[2] }
end
local entries = inputs_after(record, known, r[4])
redis.call('HSET', record, 'inputs_read', read)
return { 'inputs', entries }
