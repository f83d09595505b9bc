#!lua flags=no-writes
--[[
Read one page of a run's log, and what a reader judges it by: is the run there, is it over, where does its log end.

One atomic read; the page ends at `count` entries or once it is `max_bytes` large.

KEYS  1 record  2 log
ARGV  1 cursor  2 count (0: only look, without the spec)  3 max_bytes
Returns
  {status, epoch, top, spec, entries}   top: '0-0' if the log is missing
  {}                                    no such run
--]]
local record, log = unpack(KEYS)
local cursor, count, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local r = redis.call('HMGET', record, 'status', 'epoch')
if not r[1] then
  return {}
end
if count == 0 then
  return { r[1], r[2], top_of(log), '', {} }
end

local entries, size = {}, 0
if cursor == '18446744073709551615-18446744073709551615' then
  count = 0 -- nothing can come after it, and the server refuses to look
end
while #entries < count and size < max_bytes do
  local some = redis.call('XRANGE', log, '(' .. cursor, '+', 'COUNT', math.min(32, count - #entries))
  for _, entry in ipairs(some) do
    entries[#entries + 1] = entry
    size = size + #entry[2][2]
    cursor = entry[1]
    if size >= max_bytes then
      break
    end
  end
  if #some == 0 then
    break
  end
end
return { r[1], r[2], top_of(log), redis.call('HGET', record, 'spec'), entries }
