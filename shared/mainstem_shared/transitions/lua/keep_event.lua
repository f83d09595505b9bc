#!lua
--[[
Keep an event for a while, once, and name the runs that are listed as waiting for it.

KEYS  1 events  2 waiting
ARGV  1 event_id  2 entry: when it came (ms), a space, its payload  3 ttl_ms  4 most events that are kept
Returns  {'kept', run_ids}       also of an event that is kept already
--]]
local events, waiting = unpack(KEYS)
local event_id, entry, ttl, most = unpack(ARGV)

redis.call('HSETNX', events, event_id, entry)
redis.call('PEXPIRE', events, ttl)
while redis.call('HLEN', events) > tonumber(most) do
  local oldest, since
  local flat = redis.call('HGETALL', events)
  for i = 1, #flat, 2 do
    local at = tonumber(string.match(flat[i + 1], '^%d+'))
    if not since or at < since or (at == since and flat[i] < oldest) then
      oldest, since = flat[i], at
    end
  end
  redis.call('HDEL', events, oldest)
end
return { 'kept', redis.call('SMEMBERS', waiting) }
