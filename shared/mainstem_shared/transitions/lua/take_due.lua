#!lua flags=allow-oom
--[[
Take entries of an index that are due, oldest first: nobody else gets them until the caller's hold is over.

Whoever takes an entry moves it on, or removes it, when the work is done. If it dies before, the entry is due
again by itself. A lost reply delays a slice by the hold.

KEYS  1 active, compact
ARGV  1 now_ms  2 limit  3 hold_ms
Returns
  {'taken', members}             members: {run_id, due_ms, …}; none if nothing is due
--]]
local index = KEYS[1]
local now, limit, hold = unpack(ARGV)

local members = redis.call('ZRANGEBYSCORE', index, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #members, 2 do
  redis.call('ZADD', index, 'XX', now + hold, members[i])
end
return { 'taken', members }
