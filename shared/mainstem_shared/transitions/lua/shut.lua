#!lua flags=allow-oom
--[[
Shut the pace of a provider until a time: the provider said so. No later answer opens it earlier.

Calls that wait draw again; all that limits saved up is gone.

KEYS  1 pace
ARGV  1 now_ms  2 until_ms
Returns
  {'closed', until_ms}           for how long it is closed now
--]]
local pace = KEYS[1]
local now, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
-- Calls that were refused together say nearly the same time: the first one counts, and no draw is made anew.
local SAME_MS, KEPT_MS = 250, 120000

local closed = tonumber(redis.call('HGET', pace, 'closed_until') or 0)
if wanted <= closed + SAME_MS then
  return { 'closed', closed }
end
redis.call('HSET', pace, 'closed_until', wanted, 'since', 0)
redis.call('HDEL', pace, 'requests', 'tokens')
redis.call('HINCRBY', pace, 'closures', 1)
extend(pace, wanted - now + KEPT_MS)
return { 'closed', wanted }
