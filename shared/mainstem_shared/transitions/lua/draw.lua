#!lua
--[[
Draw a call from the pace of a provider, which the whole fleet shares: when may it be made? Who waited asks again.

Each caller gets a time of its own, in the order of asking: nobody polls. Requests and tokens are spread over the
minute, but for a tenth of the minute's that may come at once; in no 60 s there are more than the limits.
Once a pace that was shut opens, twice as many calls begin each second as in the second before.

KEYS  1 pace
ARGV  1 now_ms  2 closures: what an earlier answer said, if the time that it gave has come; else ''
      3 requests_per_minute, or ''  4 tokens_per_minute, or ''  5 tokens
Returns
  {'drawn', closures, wait_ms}   make the call then; if wait_ms > 0, ask again first
  {'closed', closures, for_ms}   for longer than a call may wait: nothing was drawn
--]]
local pace = KEYS[1]
local now, known, requests, minute_tokens, tokens = unpack(ARGV)
local RAMP_MS, LONGEST_MS, KEPT_MS = 1000, 60000, 120000

now = tonumber(now)
local b = redis.call('HMGET', pace, 'closures', 'closed_until', 'since', 'requests', 'tokens')
local closures, closed = b[1] or '0', tonumber(b[2] or 0)
if known == closures then
  return { 'drawn', closures, 0 } -- drawn before, and no closure came in between
end
if closed - now > LONGEST_MS then
  return { 'closed', closures, closed - now }
end
if closed == 0 and requests == '' and minute_tokens == '' then
  return { 'drawn', closures, 0 }
end

-- A limit is a clock that each draw puts forward; a draw has to wait while it is ahead by more than the burst.
local function limited(clock, limit, amount)
  local burst = math.max(1, math.floor(limit / 10))
  local each = 60000 / (limit - burst + 1)
  amount = math.min(amount, limit)
  -- What is more than the burst itself is spaced so that the minute has a whole number of it.
  local cost = amount > burst and 60000 / math.floor(limit / amount) or amount * each
  local ahead = math.max(0, burst - amount) * each
  clock = tonumber(clock or (closed > 0 and closed + ahead) or 0)
  return { clock = clock, at = clock - ahead, cost = cost }
end
local at = now
if closed > 0 then
  local since = redis.call('HINCRBY', pace, 'since', 1)
  at = math.max(at, closed + RAMP_MS * math.log(since) / math.log(2))
end
local clocks = {}
if requests ~= '' then
  clocks.requests = limited(b[4], tonumber(requests), 1)
end
if minute_tokens ~= '' then
  clocks.tokens = limited(b[5], tonumber(minute_tokens), tonumber(tokens))
end
for _, clock in pairs(clocks) do
  at = math.max(at, clock.at)
end
local latest = math.max(at, closed)
for name, clock in pairs(clocks) do
  local put = math.max(clock.clock, at) + clock.cost
  redis.call('HSET', pace, name, string.format('%.4f', put))
  latest = math.max(latest, put)
end
extend(pace, math.ceil(latest - now) + KEPT_MS)
return { 'drawn', closures, math.ceil(at - now - 0.5) } -- clocks are rounded
