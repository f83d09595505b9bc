#!lua
--[[
Accept what a user says to a run that is at work, or will be: it waits in the record until the engine reads it.

The input's id makes it repeatable: the same one again is answered the same, as long as the run exists.

KEYS  1 record  2 active
ARGV  1 now_ms  2 input_id  3 digest of the text  4 entry  5 how many may wait  6 how many a run takes in all
      7 run_id  8 when a sweeper looks whether its owner knows
Returns
  {'accepted', number, at_ms, owner}
                                 owner: who runs it and is to be told; '' if nobody does
  {'reused'}                     another text was accepted under this id
  {'paused'}                     the run waits for a human's decision: that comes first
  {'inactive', status}           it is over, or somebody asked to stop it
  {'full'}                       as many wait as may, or the run took as many as it may
  {'gone'}
--]]
local record, unfinished = unpack(KEYS)
local now, input_id, digest, entry, waiting_limit, limit, run_id, look_at = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'owner', 'stop_reason', 'inputs', 'inputs_read',
  'input_id:' .. input_id)
local status, owner = r[1], r[2] or ''
if not status then
  return { 'gone' }
end
if r[6] then
  local number, first, at = string.match(r[6], '^(%d+) (%S+) (%d+)$')
  if first ~= digest then
    return { 'reused' }
  end
  if ACTIVE[status] then
    look_by(unfinished, run_id, look_at)
  end
  return { 'accepted', number, at, status == 'running' and owner or '' }
end
if status == 'requires_action' and not r[3] then
  return { 'paused' }
end
if not ACTIVE[status] or r[3] then
  return { 'inactive', status }
end
local number = tonumber(r[4] or '0') + 1
if number > tonumber(limit) or number - tonumber(r[5] or '0') > tonumber(waiting_limit) then
  return { 'full' }
end

redis.call('HSET', record, 'inputs', number, 'input:' .. number, entry,
  'input_id:' .. input_id, number .. ' ' .. digest .. ' ' .. now)
look_by(unfinished, run_id, look_at)
return { 'accepted', number, now, status == 'running' and owner or '' }
