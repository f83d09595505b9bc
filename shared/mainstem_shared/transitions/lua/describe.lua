#!lua
--[[
Change what people say about a run, or about a thread: its title, labels and metadata. What is not given stays.
A finished run is archived once more, where there is an archive: it stays until then.

KEYS  1 record, or the thread's hash  2 record, or the thread's runs: what must be there
      3 log, of a run  4 compact, of a run
ARGV  1 title  2 labels  3 metadata: each JSON; 'null' clears it, '' leaves it
      4 run_id, of a run where there is an archive, or ''  5 now_ms  6 keep_ms: how long a run waits for the archive
Returns  {'described', title, labels, metadata}  each '' if there is none  | {'gone'}
--]]
local record = KEYS[1]
local title, labels, metadata, run_id, now, keep = unpack(ARGV)

if redis.call('EXISTS', KEYS[2]) == 0 then
  return { 'gone' }
end
if title == 'null' then
  redis.call('HDEL', record, 'title')
elseif title ~= '' then
  redis.call('HSET', record, 'title', title)
end
if labels == 'null' then
  redis.call('HDEL', record, 'labels')
elseif labels ~= '' then
  redis.call('HSET', record, 'labels', labels)
end
if metadata == 'null' then
  redis.call('HDEL', record, 'metadata')
elseif metadata ~= '' then
  redis.call('HSET', record, 'metadata', metadata)
end
if redis.call('EXISTS', record) == 1 then
  extend(record, redis.call('PTTL', KEYS[2]))
end
if run_id ~= '' and not ACTIVE[redis.call('HGET', record, 'status')] then
  extend(record, keep)
  extend(KEYS[3], keep)
  redis.call('ZADD', KEYS[4], now, run_id)
end
local r = redis.call('HMGET', record, 'title', 'labels', 'metadata')
return { 'described', r[1] or '', r[2] or '', r[3] or '' }
