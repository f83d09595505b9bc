#!lua flags=allow-oom
--[[
Let go of a finished run that the archive has: it lives on for a while, and no list of its slot has it any more.

KEYS  1 record  2 log  3 thread runs  4 recent  5 compact
ARGV  1 run_id  2 nonce: of the end that the archive has  3 hot_ms
Returns
  {'released'}                   also of a run that is gone
  {'changed'}                    the store has another end of it: archive that first
--]]
local record, log, runs, recent, compact = unpack(KEYS)
local run_id, nonce, hot = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'nonce')
if r[1] and (ACTIVE[r[1]] or (r[2] or '') ~= nonce) then
  return { 'changed' }
end
for _, key in ipairs({ record, log }) do
  if redis.call('PTTL', key) > tonumber(hot) then
    redis.call('PEXPIRE', key, hot)
  end
end
for _, list in ipairs({ runs, recent, compact }) do
  redis.call('ZREM', list, run_id)
end
return { 'released' }
