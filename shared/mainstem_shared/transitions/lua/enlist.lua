#!lua
--[[
List a run before something happens to it: as waiting for an event, or as another run's child.

KEYS  1 waiting, or children of another run
ARGV  1 run_id  2 ttl_ms
Returns  {'listed'}
--]]
redis.call('SADD', KEYS[1], ARGV[1])
extend(KEYS[1], ARGV[2])
return { 'listed' }
