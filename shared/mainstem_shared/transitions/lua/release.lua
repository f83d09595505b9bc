#!lua flags=allow-oom
--[[
Let go of a finished run that the archive has: it lives on for a while, and no list of its slot has it any more.
The last one leaves behind whose the thread is, until every start that is under way has heard of it.

KEYS  1 record  2 log  3 thread  4 thread runs  5 recent  6 compact
ARGV  1 run_id  2 nonce: of the end that the archive has  3 title, as the archive has it, or ''
      4 labels, as well  5 metadata, as well  6 hot_ms  7 user: whose the run is  8 owner_ms: how long that is kept
Returns
  {'released'}                   also of a run that is gone
  {'changed'}                    the store has another end of it, or another description: archive that first
--]]
local record, log, thread, runs, recent, compact = unpack(KEYS)
local run_id, nonce, title, labels, metadata, hot, user, owner_ms = unpack(ARGV)

local r = redis.call('HMGET', record, 'status', 'nonce', 'title', 'labels', 'metadata')
if r[1] and (ACTIVE[r[1]] or (r[2] or '') ~= nonce) then
  return { 'changed' }
end
if r[1] and ((r[3] or '') ~= title or (r[4] or '') ~= labels or (r[5] or '') ~= metadata) then
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
if redis.call('EXISTS', runs) == 0 then
  redis.call('HSET', thread, 'user', user)
  if #engines_of(thread) == 0 then -- else it lives on, to say which engines keep something on it
    redis.call('PEXPIRE', thread, owner_ms)
  end
end
return { 'released' }
