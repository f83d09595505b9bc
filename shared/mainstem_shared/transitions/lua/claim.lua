#!lua
--[[
Make a queued run this worker's: open a new epoch with `run.started` (or `run.resumed`, `run.restarted`).

A checkpoint without a fold is a pause's: it gets the snapshot's, to go back to it if the claim's owner is lost.

KEYS  1 record  2 log  3 thread  4 thread runs  5 thread queue  6 snapshot  7 checkpoint
ARGV  1 now_ms  2 nonce  3 owner  4 task_id  5 live_ttl_ms  6 body  7 newest version of a record that the caller understands
Returns
  {'claimed', epoch, segment, spec, input, started_ms, resume_as, decisions,
   idle_ms, inputs}              idle_ms: how long it waited for humans, and then for a worker; inputs: how
                                 many it was sent so far
  {'refused', status, epoch}     not queued for a worker: a duplicate or stale message
  {'newer', version}             a later version's run, for workers of that version
  {'stopping', reason, epoch}    somebody asked to stop it before it was claimed
  {'gone'}                       no such run
--]]
local record, log, thread, runs, queue, snapshot, checkpoint = unpack(KEYS)
local now, nonce, owner, task_id, live_ttl, body, understood = unpack(ARGV)

local function claimed(epoch)
  local f = redis.call('HMGET', record, 'segment', 'spec', 'input', 'started', 'resume_as', 'decisions', 'idle',
    'inputs')
  return { 'claimed', epoch, f[1], f[2], f[3], f[4], f[5] or '', f[6] or '', f[7] or '0', f[8] or '0' }
end

local r = redis.call('HMGET', record, 'status', 'waiting', 'epoch', 'nonce', 'stop_reason', 'segment', 'resume_as',
  'paused', 'restart', 'v')
local status, waiting, epoch = r[1], r[2], r[3]
if not status then
  return { 'gone' }
end
if r[4] == nonce then
  return claimed(epoch)
end
if tonumber(r[10] or '1') > tonumber(understood) then
  return { 'newer', r[10] }
end
if status ~= 'queued' or waiting ~= 'worker' then
  return { 'refused', status, epoch }
end
if r[5] then
  return { 'stopping', r[5], epoch }
end

local top = top_of(log)
local segment = tonumber(r[6] or '0') + 1
epoch = next_epoch(epoch, top, nonce)
local opening = '{"segment":' .. segment .. ','
if r[9] then
  opening = opening .. string.sub(r[9], 2, -2) .. ',' -- the content that readers replace theirs by
end
append_control(log, epoch, top, r[7] or 'run.started', opening .. string.sub(body, 2))
redis.call('HSET', record, 'status', 'running', 'epoch', epoch, 'owner', owner, 'task', task_id,
  'nonce', nonce, 'segment', segment, 'last_task', task_id)
redis.call('HSETNX', record, 'started', now)
redis.call('HSETNX', record, 'first_task', task_id)
redis.call('HDEL', record, 'waiting', 'published', 'paused', 'restart')
if r[9] then
  redis.call('HINCRBY', record, 'restarts', 1) -- readers that only know how to append begin anew
end
if r[8] then
  redis.call('HINCRBY', record, 'idle', math.max(tonumber(now) - tonumber(r[8]), 0))
end
local state = redis.call('HGET', snapshot, 'state')
if state and redis.call('EXISTS', checkpoint) == 1 and redis.call('HEXISTS', checkpoint, 'fold') == 0 then
  redis.call('HSET', checkpoint, 'fold', state)
end
for _, key in ipairs({ record, log, thread, runs, queue }) do
  extend(key, live_ttl)
end
return claimed(epoch)
