// A page with one run, as an app writes it: `?url=…&run=…`.
import { createRoot } from 'react-dom/client';
import { Mainstem } from '../../api/typescript/dist/index.js';
import { useRun } from '../../api/typescript/dist/react.js';

const given = new URLSearchParams(location.search);
const mainstem = new Mainstem({ baseUrl: given.get('url') });

function Answer({ runId }) {
  const { run, connection, error, abort, resume } = useRun(mainstem, runId);
  window.renders = (window.renders ?? 0) + 1;
  const decide = type => resume({ action_id: run.action.action_id, decisions: run.action.calls.map(({ call_id }) => ({ call_id, type })) });
  return (
    <main>
      <p id="text">{run.text}</p>
      <p id="status">{String(run.status)}</p>
      <p id="connection">{connection}</p>
      <p id="error">{error ? error.code : ''}</p>
      {!run.isOver && <button onClick={abort}>Stop</button>}
      {run.action && <button onClick={() => decide('approve')}>Approve</button>}
    </main>
  );
}

createRoot(document.getElementById('root')).render(<Answer runId={given.get('run')} />);
