#!lua
--[[
Give a run's owner the inputs that it does not know yet, and note how many its engine has read.

KEYS  1 record
ARGV  1 epoch  2 owner  3 read: as many as the log says  4 known: as many as the owner has
      5 control
Returns
  {'inputs', entries}            those after the known ones, in order of arrival
  {'refused', status, epoch}     the caller is not the owner (any more)
  {'gone'}
--]]
local record = KEYS[1]
local epoch, owner, read, known, control = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'epoch', 'owner', 'inputs', 'nonce')
if not r[1] then
  return { 'gone' }
end
if r[1] ~= 'running' or not holds(r[2], r[3], r[5], epoch, owner, control) then
  return { 'refused', r[1], r[2] }
end
local entries = inputs_after(record, known, r[4])
redis.call('HSET', record, 'inputs_read', read)
return { 'inputs', entries }
