#!lua flags=no-writes
--[[
Read everything that is stored of a run, as of now: to verify its history, or to keep it for whoever looks into it.

KEYS  1 record  2 log  3 snapshot
Returns
  {record, entries, snapshot}    hashes as flat lists; entries: the whole log
  {}                             no such run
--]]
local record, log, snapshot = unpack(KEYS)
local fields = redis.call('HGETALL', record)
if #fields == 0 then
  return {}
end
return { fields, redis.call('XRANGE', log, '-', '+'), redis.call('HGETALL', snapshot) }
