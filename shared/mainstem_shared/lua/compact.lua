#!lua flags=allow-oom
--[[
Drop the deltas of a finished run: its last entry, `run.finished`, holds the whole content.

KEYS  1 record  2 log
Returns  {'compacted'} | {'refused', status} | {'gone'}
--]]
local record, log = unpack(KEYS)
local status = redis.call('HGET', record, 'status')
if not status then
  return { 'gone' }
end
if ACTIVE[status] then
  return { 'refused', status }
end
redis.call('XTRIM', log, 'MAXLEN', '=', 1)
return { 'compacted' }
