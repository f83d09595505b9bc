#!lua
--[[
List a run as waiting for an event, before it pauses.

KEYS  1 waiting
ARGV  1 run_id  2 ttl_ms
Returns  {'listed'}
--]]
redis.call('SADD', KEYS[1], ARGV[1])
extend(KEYS[1], ARGV[2])
return { 'listed' }
