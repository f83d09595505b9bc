#!lua flags=allow-oom
--[[
Replace what an account has reserved for a provider call by what the call cost. Only the first settlement counts.

KEYS  1 spending
ARGV  1 call_id  2 nanos, or '' for what was reserved  3 tokens, or '' for what was reserved
      4 sums: a JSON object of counters to add to
Returns
  {'settled'}
  {'unknown'}                    nothing is reserved for it: it was settled before, or never begun here
--]]
local account = KEYS[1]
local call_id, nanos, tokens, sums = unpack(ARGV)

local name = 'call:' .. call_id
local held = redis.call('HGET', account, name)
if not held then
  return { 'unknown' }
end
local held_nanos, held_tokens = string.match(held, ' (%d+) (%d+)$')
redis.call('HDEL', account, name)
redis.call('HINCRBY', account, 'held_nanos', string.format('%.0f', 0 - tonumber(held_nanos)))
redis.call('HINCRBY', account, 'held_tokens', string.format('%.0f', 0 - tonumber(held_tokens)))
redis.call('HINCRBY', account, 'nanos', nanos == '' and held_nanos or nanos)
redis.call('HINCRBY', account, 'tokens', tokens == '' and held_tokens or tokens)
for counter, by in pairs(cjson.decode(sums)) do
  redis.call('HINCRBY', account, counter, string.format('%.0f', by))
end
return { 'settled' }
