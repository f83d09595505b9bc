#!lua flags=allow-oom
--[[
Drop the deltas of a finished run, and take it off those that wait for it: its last entry, `run.finished`, holds the whole content.

KEYS  1 record  2 log  3 spare  4 compact
ARGV  1 run_id  2 keep_due: 1 leaves it among those that wait: the archive has yet to get it
Returns  {'compacted'} | {'refused', status} | {'gone'}
--]]
local record, log, spare, index = unpack(KEYS)
local status = redis.call('HGET', record, 'status')
if ARGV[2] ~= '1' then
  redis.call('ZREM', index, ARGV[1])
end
if not status then
  return { 'gone' }
end
if ACTIVE[status] then
  return { 'refused', status }
end
-- Trimming would leave the deltas' bytes in the node that the last entry shares with them: write it anew.
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if not last or redis.call('XLEN', log) == 1 then
  return { 'compacted' }
end
local ttl = redis.call('PTTL', log)
redis.call('DEL', log)
redis.call('XADD', log, last[1], unpack(last[2]))
redis.call('PEXPIRE', log, math.max(ttl, 1))
shrink(log, spare)
return { 'compacted' }
