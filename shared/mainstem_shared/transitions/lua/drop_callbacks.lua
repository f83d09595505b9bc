#!lua flags=allow-oom
--[[
Drop a run's deliveries and their index entries: its user's data is deleted.

KEYS  1 callbacks  2 due callbacks
ARGV  1 run_id
Returns  {'dropped'}
--]]
local callbacks, due = unpack(KEYS)

for _, name in ipairs(redis.call('HKEYS', callbacks)) do
  if string.match(name, '^%d+%.%d+$') then
    redis.call('ZREM', due, ARGV[1] .. '.' .. name)
  end
end
redis.call('DEL', callbacks)
return { 'dropped' }
