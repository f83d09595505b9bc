#!lua flags=allow-oom
--[[
Correct what a call drew from the pace of a provider: it was not made, or used another number of tokens.

KEYS  1 pace
ARGV  1 now_ms  2 closures: those that its draw knew  3 requests_per_minute, or ''  4 tokens_per_minute, or ''
      5 requests: how many more it made, -1 for one that was not made  6 tokens: how many more it used
Returns
  {'corrected'}
  {'closed'}                     since the draw: what was drawn then counts no more
--]]
local pace = KEYS[1]
local now, known, minute_requests, minute_tokens, requests, tokens = unpack(ARGV)

if (redis.call('HGET', pace, 'closures') or '0') ~= known then
  return { 'closed' }
end
local function put(name, limit, more)
  limit, more = tonumber(limit), tonumber(more)
  local clock = redis.call('HGET', pace, name)
  if not limit or more == 0 or not clock then
    return
  end
  local each = 60000 / (limit - math.max(1, math.floor(limit / 10)) + 1)
  more = math.max(-limit, math.min(limit, more))
  -- From now on if nobody drew for long: what was not used then is not saved up.
  local corrected = math.max(tonumber(clock), more > 0 and tonumber(now) or 0) + more * each
  redis.call('HSET', pace, name, string.format('%.4f', corrected))
  extend(pace, math.max(0, math.ceil(corrected - tonumber(now))) + 120000)
end
put('requests', minute_requests, requests)
put('tokens', minute_tokens, tokens)
return { 'corrected' }
