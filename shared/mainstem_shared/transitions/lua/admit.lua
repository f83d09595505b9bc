#!lua flags=allow-oom
--[[
Decide which runs may be published: as many as the window has room for, the least served user's first.

A run that waits has a number: its user's count of runs so far, by weight, and never less than that of the run
which was admitted last. The smallest number is next. A run that had its turn before keeps it: it comes first.
Each admission raises the number that those who come later have at least, so that nobody waits for ever, however
many come for the first time. Repeating the call changes nothing for the run.
Runs under memory pressure: what is queued must be executed for memory to become free.

KEYS  1 admitted  2 waiting  3 charged
ARGV  1 now_ms  2 window  3 live_ttl_ms  4 run_id that wants to be published, or ''  5 user
      6 share: what the run counts, 1 / weight  7 runs that need no place any more: a JSON list
      8 had_turn: '1' if a worker had the run before
Returns
  {'counted', admitted, ahead}   admitted: the runs that got a place in this call; ahead: how many waiting runs
                                 come before the run, or -1 if it has a place
--]]
local admitted, waiting, charged = unpack(KEYS)
local now, window, live_ttl, run_id, user, share, over, had_turn = unpack(ARGV)
local step = 0.001 -- per admission; small: with fewer users that wait than 1 / step, shares are what they were

for _, ended in ipairs(cjson.decode(over)) do
  redis.call('ZREM', admitted, ended)
  redis.call('ZREM', waiting, ended)
end
if run_id ~= '' and not redis.call('ZSCORE', admitted, run_id) and not redis.call('ZSCORE', waiting, run_id) then
  local counts = redis.call('HMGET', charged, 'last admitted', user)
  local last = tonumber(counts[1] or '0')
  local number = math.max(last, tonumber(counts[2] or '0'))
  redis.call('HSET', charged, user, number + share)
  redis.call('ZADD', waiting, had_turn == '1' and last - 1 or number, run_id)
end
local fresh = {}
for _ = redis.call('ZCARD', admitted) + 1, tonumber(window) do
  local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
  if not first[1] then
    break
  end
  redis.call('ZREM', waiting, first[1])
  redis.call('ZADD', admitted, now, first[1])
  local last = tonumber(redis.call('HGET', charged, 'last admitted') or '0')
  redis.call('HSET', charged, 'last admitted', math.max(tonumber(first[2]), last + step))
  fresh[#fresh + 1] = first[1]
end
if redis.call('EXISTS', waiting) == 0 then
  redis.call('DEL', charged) -- who waits for nobody owes nothing
end
redis.call('PEXPIRE', admitted, live_ttl)
redis.call('PEXPIRE', waiting, live_ttl)
redis.call('PEXPIRE', charged, live_ttl)
local ahead = run_id ~= '' and redis.call('ZRANK', waiting, run_id)
return { 'counted', fresh, ahead or -1 }
