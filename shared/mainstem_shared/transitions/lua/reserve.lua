#!lua
--[[
Reserve in an account what a provider call may cost, if the account's limits have room. Repeating it changes nothing.

KEYS  1 spending
ARGV  1 call_id  2 day  3 nanos  4 tokens  5 limit_nanos, or ''  6 limit_tokens, or ''  7 ttl_ms
Returns
  {'reserved'}
  {'exceeded', nanos, tokens}    what is spent and reserved: with this call it would be over a limit
--]]
local account = KEYS[1]
local call_id, day, nanos, tokens, limit_nanos, limit_tokens, ttl = unpack(ARGV)

local name = 'call:' .. call_id
if redis.call('HEXISTS', account, name) == 1 then
  return { 'reserved' }
end
local a = redis.call('HMGET', account, 'nanos', 'held_nanos', 'tokens', 'held_tokens')
local all_nanos = tonumber(a[1] or 0) + tonumber(a[2] or 0)
local all_tokens = tonumber(a[3] or 0) + tonumber(a[4] or 0)
if
  (limit_nanos ~= '' and all_nanos + tonumber(nanos) > tonumber(limit_nanos))
  or (limit_tokens ~= '' and all_tokens + tonumber(tokens) > tonumber(limit_tokens))
then
  return { 'exceeded', string.format('%.0f', all_nanos), string.format('%.0f', all_tokens) }
end
redis.call('HSET', account, name, day .. ' ' .. nanos .. ' ' .. tokens)
redis.call('HINCRBY', account, 'held_nanos', nanos)
redis.call('HINCRBY', account, 'held_tokens', tokens)
extend(account, ttl)
return { 'reserved' }
