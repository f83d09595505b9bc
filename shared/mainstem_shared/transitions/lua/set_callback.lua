#!lua
--[[
Change who is to be told about a run that is not over, unless that was changed since it was read.

KEYS  1 record
ARGV  1 before: the callback as it was read, or ''  2 callback: who is to be told, as JSON
Returns  {'set'} | {'changed'}  (read it again) | {'ended'}  (over, or gone)
--]]
local record = KEYS[1]
local r = redis.call('HMGET', record, 'status', 'callback')
if not ACTIVE[r[1]] then
  return { 'ended' }
end
if (r[2] or '') ~= ARGV[1] then
  return { 'changed' }
end
redis.call('HSET', record, 'callback', ARGV[2])
return { 'set' }
