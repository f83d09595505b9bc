#!lua
--[[
Make the deliveries of one event of a run due again, under the same id, with attempts counted anew.

KEYS  1 callbacks  2 due callbacks
ARGV  1 now_ms  2 run_id  3 epoch  4 spec  5 event: JSON  6 targets: a JSON list
Returns  {'due', deliveries}     deliveries: how many deliveries are due now
--]]
local callbacks, due = unpack(KEYS)
local now, run_id, epoch, spec, event, targets = unpack(ARGV)

local numbers, last = {}, 0
for _, name in ipairs(redis.call('HKEYS', callbacks)) do
  local of, number = string.match(name, '^(%d+)%.(%d+)$')
  if of == epoch then
    numbers[redis.call('HGET', callbacks, name)] = number
    last = math.max(last, tonumber(number))
  end
end
local deliveries = 0
for _, target in ipairs(cjson.decode(targets)) do
  if not numbers[target] then
    last = last + 1
    numbers[target] = string.format('%d', last)
  end
  local delivery = epoch .. '.' .. numbers[target]
  redis.call('HSET', callbacks, delivery, target, epoch, event, 'spec', spec)
  redis.call('HDEL', callbacks, delivery .. ':attempts')
  redis.call('ZADD', due, now, run_id .. '.' .. delivery)
  deliveries = deliveries + 1
end
extend(callbacks, CALLBACKS_KEPT)
return { 'due', deliveries }
