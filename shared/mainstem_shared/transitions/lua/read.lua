#!lua flags=no-writes
--[[
Read a run as of now: its record without the input, its snapshot, and the log entries after the snapshot.

One atomic read: record, snapshot and log always belong together.

KEYS  1 record  2 log  3 snapshot
Returns
  {record fields, snapshot cursor or '', snapshot state or '', entries, inputs}
                                 inputs: what users said to it so far; {} once it is over
  {}                             no such run
--]]
local record, log, snapshot = unpack(KEYS)
local names = { 'spec', 'status', 'waiting', 'reason', 'epoch', 'owner', 'task', 'segment', 'started', 'finished',
  'error', 'stop_reason', 'action', 'published', 'attempts', 'queued', 'sealed', 'publishes', 'stop_ms',
  'first_task', 'last_task', 'restarts', 'decisions', 'v', 'nonce', 'title', 'labels',
  'metadata' }
local values = redis.call('HMGET', record, unpack(names))
if not values[2] then
  return {}
end
local fields = {}
for i, name in ipairs(names) do
  if values[i] then
    fields[#fields + 1] = name
    fields[#fields + 1] = values[i]
  end
end
if not ACTIVE[values[2]] then
  return { fields, '', '', redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1), {} }
end
local snap = redis.call('HMGET', snapshot, 'cursor', 'state')
local from = snap[1] and ('(' .. snap[1]) or '-'
local inputs = inputs_after(record, 0, redis.call('HGET', record, 'inputs'))
return { fields, snap[1] or '', snap[2] or '', redis.call('XRANGE', log, from, '+'), inputs }
