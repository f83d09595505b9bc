#!lua flags=allow-oom
--[[
Note the outcome of a delivery attempt: delivered, to be tried again later, or given up.

KEYS  1 callbacks  2 due callbacks
ARGV  1 delivery: `<epoch>.<number>`  2 member of the index  3 attempts: JSON about those so far, or '' once delivered
      4 when the delivery is due again
Returns
  {'noted'}
  {'gone'}                       another attempt delivered it, or it was dropped
--]]
local callbacks, due = unpack(KEYS)
local delivery, member, attempts, due_at = unpack(ARGV)

if redis.call('HEXISTS', callbacks, delivery) == 0 then
  redis.call('ZREM', due, member)
  return { 'gone' }
end
if attempts ~= '' then
  redis.call('HSET', callbacks, delivery .. ':attempts', attempts)
  redis.call('ZADD', due, due_at, member)
  return { 'noted' }
end
redis.call('HDEL', callbacks, delivery, delivery .. ':attempts')
redis.call('ZREM', due, member)
for _, name in ipairs(redis.call('HKEYS', callbacks)) do
  if string.match(name, '^%d+%.%d+$') then
    return { 'noted' } -- other deliveries are open
  end
end
redis.call('DEL', callbacks)
return { 'noted' }
